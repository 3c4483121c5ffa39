"""What infers of Kafka's topics: values, and None where tombstones are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

import streamflow as sf
from streamflow_kafka import Kafka, KafkaTopic, KafkaTopics


@dataclass
class Order:
    user: str
    amount: int


def build(flow: sf.Flow, kafka: Kafka) -> None:
    assert_type(kafka.topic("a"), KafkaTopic[bytes])
    assert_type(kafka.topic("a", nulls=True), KafkaTopic[bytes | None])
    assert_type(kafka.topic("a", value=Order), KafkaTopic[Order])
    assert_type(kafka.topic("a", value=Order, nulls=False), KafkaTopic[Order])
    assert_type(kafka.topic("a", value=Order, nulls=True), KafkaTopic[Order | None])
    assert_type(kafka.topics("a", "b"), KafkaTopics[bytes])
    assert_type(kafka.topics("a", "b", value=str), KafkaTopics[str])
    assert_type(kafka.topics(pattern="a.*", value=Order, nulls=True), KafkaTopics[Order | None])

    orders = flow.source(kafka.topic("orders", value=Order))
    assert_type(orders, sf.Stream[Order])
    orders.to(kafka.topic("copy", value=Order))
    orders.to(kafka.topic("copy", value=Order, nulls=True))
    maybe = flow.source(kafka.topics("a", "b", value=Order, nulls=True))
    assert_type(maybe, sf.Stream[Order | None])
    assert_type(flow.source(kafka.topic("m", value=Order), message=True), sf.Stream[sf.Message[Order]])
    copy = kafka.topic("copy", value=Order)
    maybe.to(copy)  # type: ignore[arg-type]
    several = kafka.topics("a", "b", value=Order)
    orders.to(several)  # type: ignore[arg-type]
