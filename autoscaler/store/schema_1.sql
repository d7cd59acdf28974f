-- Step 1 of the schema. A later change is a new file, schema_2.sql, never an edit of this one.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE leases (
    model TEXT PRIMARY KEY, holder TEXT NOT NULL, epoch INTEGER NOT NULL, beat INTEGER NOT NULL
) STRICT;
CREATE TABLE models (
    model TEXT PRIMARY KEY, memory TEXT NOT NULL DEFAULT '',
    paused_by TEXT, paused_at TEXT, retired_by TEXT, retired_at TEXT
) STRICT;
CREATE TABLE intents (id TEXT PRIMARY KEY, model TEXT NOT NULL, last_attempt INTEGER NOT NULL) STRICT;
-- A node is one attempt of an intent: its name is unique for ever and used in one create call.
CREATE TABLE nodes (
    name TEXT PRIMARY KEY, model TEXT NOT NULL, intent TEXT NOT NULL, attempt INTEGER NOT NULL,
    state TEXT NOT NULL, epoch INTEGER NOT NULL, created_at TEXT NOT NULL, closed_at TEXT,
    doc TEXT NOT NULL CHECK (json_valid(doc))
) STRICT;
CREATE INDEX nodes_open ON nodes (model, state) WHERE closed_at IS NULL;
CREATE INDEX nodes_intent ON nodes (intent, attempt);
CREATE TABLE events (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, model TEXT, node TEXT, state TEXT,
    cause TEXT NOT NULL, actor TEXT NOT NULL, detail TEXT NOT NULL, decision TEXT
) STRICT;
CREATE INDEX events_node ON events (node, id);
CREATE INDEX events_model ON events (model, id);
CREATE TABLE decisions (
    id TEXT PRIMARY KEY, seq INTEGER NOT NULL, model TEXT NOT NULL, at TEXT NOT NULL, epoch INTEGER NOT NULL,
    verdict TEXT NOT NULL, acted INTEGER NOT NULL, decision TEXT NOT NULL CHECK (json_valid(decision)),
    plan TEXT NOT NULL CHECK (json_valid(plan))
) STRICT;
CREATE INDEX decisions_model ON decisions (model, seq);
-- What a closed node cost, split by UTC day so that daily and monthly limits add up. Exact decimals as text.
CREATE TABLE money (node TEXT NOT NULL, model TEXT NOT NULL, day TEXT NOT NULL, usd TEXT NOT NULL,
    PRIMARY KEY (node, day)) STRICT;
CREATE INDEX money_day ON money (day);
CREATE TABLE launches (node TEXT PRIMARY KEY, model TEXT NOT NULL, at TEXT NOT NULL) STRICT;
CREATE TABLE backoffs (
    type TEXT NOT NULL, location TEXT NOT NULL, until TEXT NOT NULL, reason TEXT NOT NULL,
    failures INTEGER NOT NULL, PRIMARY KEY (type, location)
) STRICT;
CREATE TABLE boots (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, type TEXT NOT NULL, location TEXT NOT NULL,
    seconds REAL NOT NULL, at TEXT NOT NULL
) STRICT;
CREATE TABLE orphans (machine_id TEXT PRIMARY KEY, name TEXT NOT NULL, first_seen TEXT NOT NULL) STRICT;
CREATE TABLE starts (at TEXT PRIMARY KEY) STRICT;
