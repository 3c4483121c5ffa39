"""State: the store contract, the SQLite store, and keyed state in memory."""
