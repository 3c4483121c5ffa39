"""RabbitMQ streams by their own protocol: wire format, connection, source and sink."""
