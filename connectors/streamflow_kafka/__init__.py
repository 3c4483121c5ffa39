"""The Kafka connector: topics as exactly-once sources and sinks."""
