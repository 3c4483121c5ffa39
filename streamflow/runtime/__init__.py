"""The runtime: channels, intake, epochs, outboxes, the engine of a shard and what restarts it."""
