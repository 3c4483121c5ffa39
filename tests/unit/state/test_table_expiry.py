"""Expiry: an entry goes when its own time is over, whatever was renewed before or behind it."""

from __future__ import annotations

from streamflow.codecs import JsonCodec
from streamflow.state.keyed import Table


def test_an_entry_that_was_renewed_is_deleted_in_its_own_time():
    table = Table("t", JsonCodec(int), int, ttl_ms=10)
    table.live("a", 0)
    table.live("b", 1)
    table.live("a", 5)  # a is over at 15, and is found to be renewed only at 10 ...
    table.live("c", 10)
    table.expire(10)  # ... behind c, which is over at 20
    table.expire(15)
    assert table.snapshot() == {"c": 0}
