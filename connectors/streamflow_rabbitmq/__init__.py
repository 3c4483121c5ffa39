"""The RabbitMQ connector: queues and streams as sources, streams and exchanges as sinks."""
