-- The state file, format 5: one per shard. Any SQLite can read it; each stateful step has a view of its own name,
-- which shows the last committed epoch. Texts in `state`, `state_delta` and `seen` are JSON.

-- flow, incarnation, generation, clean (1, or minus the lives since that ended without a commit), hash, fingerprint, created_ms, letters (the highest number of a dead letter so far), and content: what the other tables must hold
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- the chain of commits; the newest row IS the committed epoch, older ones are history
CREATE TABLE epoch(
  epoch INTEGER PRIMARY KEY, number INTEGER NOT NULL, now_ms INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  generation INTEGER NOT NULL, records INTEGER NOT NULL, entries INTEGER NOT NULL, bytes INTEGER NOT NULL,
  digest BLOB NOT NULL, crc INTEGER NOT NULL, duration_ms REAL NOT NULL
);

-- where each source partition resumes, and what was taken behind that: [[first, last], ...]
CREATE TABLE source(
  source TEXT NOT NULL, partition TEXT NOT NULL, position INTEGER NOT NULL, identity TEXT NOT NULL,
  above TEXT NOT NULL, crc INTEGER NOT NULL,
  PRIMARY KEY(source, partition)
) WITHOUT ROWID;

-- how far event time is, in microseconds since 1970: per source partition, and per group of sources the watermark
CREATE TABLE event_time(
  source TEXT NOT NULL, partition TEXT NOT NULL, at_us INTEGER NOT NULL, idle INTEGER NOT NULL,
  closed_us INTEGER NOT NULL, crc INTEGER NOT NULL,
  PRIMARY KEY(source, partition)
) WITHOUT ROWID;

-- ids of the messages taken, for sources without positions: one JSON array per epoch
CREATE TABLE seen(
  source TEXT NOT NULL, epoch INTEGER NOT NULL, count INTEGER NOT NULL, ids TEXT NOT NULL, crc INTEGER NOT NULL,
  PRIMARY KEY(source, epoch)
) WITHOUT ROWID;

-- stateful steps; rows name them by id, so that a renamed step keeps its rows
CREATE TABLE step(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, value_type TEXT NOT NULL,
  key_type TEXT NOT NULL
);

-- folded entries
CREATE TABLE state(
  key_group INTEGER NOT NULL, step INTEGER NOT NULL, key TEXT NOT NULL, sub TEXT NOT NULL, value TEXT NOT NULL,
  expires_ms INTEGER, crc INTEGER NOT NULL,
  PRIMARY KEY(key_group, step, key, sub)
) WITHOUT ROWID;

-- entries as committed and not folded yet, newer than any row: [[key, sub, value, expires_ms], [key, sub], ...]
CREATE TABLE state_delta(
  id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, step INTEGER NOT NULL, first_group INTEGER NOT NULL,
  last_group INTEGER NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL, payload TEXT NOT NULL,
  crc INTEGER NOT NULL
);

-- outputs that are not known to be published yet; those above the committed epoch are spilled and do not count
CREATE TABLE outbox(
  sink TEXT NOT NULL, first_seq INTEGER NOT NULL, epoch INTEGER NOT NULL, chunk INTEGER NOT NULL,
  count INTEGER NOT NULL, payload BLOB NOT NULL, crc INTEGER NOT NULL,
  PRIMARY KEY(sink, first_seq)
) WITHOUT ROWID;

-- records that a policy put aside, as they came; requeued holds what is to be put in again, null for nothing
CREATE TABLE dead(
  id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
  error TEXT NOT NULL, traceback TEXT NOT NULL, source TEXT NOT NULL, partition TEXT NOT NULL, position INTEGER,
  message TEXT NOT NULL, key BLOB, headers TEXT NOT NULL, timestamp_ms INTEGER, payload BLOB NOT NULL, requeued BLOB,
  crc INTEGER NOT NULL
);

-- how far each sink's broker is known to be
CREATE TABLE sink(
  sink TEXT PRIMARY KEY, epoch INTEGER NOT NULL, next_seq INTEGER NOT NULL, cursor BLOB NOT NULL,
  crc INTEGER NOT NULL
) WITHOUT ROWID;

-- how each epoch's micro-batches were cut
CREATE TABLE journal(epoch INTEGER PRIMARY KEY, payload BLOB NOT NULL, crc INTEGER NOT NULL);

-- records pushed from inside the process, per epoch
CREATE TABLE internal(epoch INTEGER PRIMARY KEY, payload BLOB NOT NULL, crc INTEGER NOT NULL);
