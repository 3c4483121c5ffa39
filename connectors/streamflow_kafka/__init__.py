"""The Kafka connector: topics as exactly-once sources and sinks."""

from streamflow.connect.secret import Secret
from streamflow.connect.tls import Tls
from streamflow_kafka.settings import Kafka, Options, SaslOAuth, SaslPlain, SaslScram
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
