"""The Kafka connector: topics as exactly-once sources and sinks."""

from streamflow.connect.secret import Secret
from streamflow_kafka.settings import Kafka, Options, SaslOAuth, SaslPlain, SaslScram, Tls
from streamflow_kafka.topic import KafkaTopic, KafkaTopics

__all__ = [
    "Kafka",
    "KafkaTopic",
    "KafkaTopics",
    "Options",
    "SaslOAuth",
    "SaslPlain",
    "SaslScram",
    "Secret",
    "Tls",
]
