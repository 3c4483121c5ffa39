"""Partitions by key are those of Kafka's Java client."""

from __future__ import annotations

import itertools

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from streamflow_kafka.partitioner import STICKY_RECORDS, by_key, murmur2, partition_of_key, partition_of_seq

# org.apache.kafka.common.utils.UtilsTest.testMurmur2, as signed integers
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", JAVA, ids=lambda key: key.decode()[:12])
def test_the_java_clients_own_vectors(key: bytes):
    assert murmur2(key) == JAVA[key] & 0xFFFFFFFF
    assert partition_of_key(key, 7) == (JAVA[key] & 0x7FFFFFFF) % 7


@given(st.binary(max_size=64))
def test_the_same_as_another_implementation_for_every_length(key: bytes):
    assert murmur2(key) == aiokafka_murmur2(key) & 0xFFFFFFFF
    assert by_key(12)(key) == partition_of_key(key, 12)


def test_without_a_key_the_number_alone_decides():
    chosen = [partition_of_seq(seq, 3) for seq in range(1, 4 * STICKY_RECORDS)]
    assert set(chosen) == {0, 1, 2}
    assert chosen == [partition_of_seq(seq, 3) for seq in range(1, 4 * STICKY_RECORDS)]
    runs = sum(before != after for before, after in itertools.pairwise(chosen))
    assert runs == 3
