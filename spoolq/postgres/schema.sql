-- The tables of the PostgreSQL engine, version 2. What happens to a message is in functions.sql.
-- Changing this: add the step from the last version to UPGRADES in installing.py, and raise VERSION there.
-- Instants are UTC milliseconds by the database's clock, which alone decides what is due and which lease has ended.

CREATE SCHEMA spoolq;

CREATE TABLE spoolq.version (one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL);

-- A queue with what its functions need of its settings; `settings` is all of them as JSON, for clients.
CREATE TABLE spoolq.queues (
    id               integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name             text NOT NULL UNIQUE,
    paused           boolean NOT NULL DEFAULT false,
    awaited_until_ms bigint NOT NULL DEFAULT 0,     -- until then somebody waits, so enqueueing notifies
    settings         text NOT NULL DEFAULT '{}',
    lease_ms         bigint NOT NULL DEFAULT 60000,
    max_attempts     integer NOT NULL DEFAULT 5,
    ttl_ms           bigint NOT NULL DEFAULT 0,
    dedup_window_ms  bigint NOT NULL DEFAULT 300000,
    retry_base_ms    double precision NOT NULL DEFAULT 5000,
    retry_factor     double precision NOT NULL DEFAULT 2,
    retry_cap_ms     double precision NOT NULL DEFAULT 3600000,
    retry_jitter     double precision NOT NULL DEFAULT 0.2,
    retry_list_ms    double precision[] NOT NULL DEFAULT '{}',
    done_ms          bigint NOT NULL DEFAULT 86400000,
    dead_ms          bigint NOT NULL DEFAULT 0,
    expired_delete   boolean NOT NULL DEFAULT false,
    limit_messages   bigint NOT NULL DEFAULT 0,
    limit_bytes      bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- No foreign key to queues: each insert would lock the queue's row, the one row that all share.
CREATE TABLE spoolq.messages (
    id             uuid PRIMARY KEY,
    body_bytes     bigint NOT NULL,
    enqueued_at_ms bigint NOT NULL,
    changed_at_ms  bigint NOT NULL,                 -- when it entered its state
    due_at_ms      bigint,                          -- of a scheduled one
    expires_at_ms  bigint,
    deadline_at_ms bigint,                          -- of a claim
    queue          integer NOT NULL,
    attempts       integer NOT NULL DEFAULT 0,
    chunks         integer NOT NULL DEFAULT 0,      -- 0: the body is here; else in that many rows of chunks
    priority       smallint NOT NULL,
    held           boolean NOT NULL DEFAULT false,  -- an earlier one of its group is open
    state          text NOT NULL,                   -- ready, scheduled, claimed, done, dead
    nonce          text,                            -- of the delivery under way, or acknowledged
    mark           text,                            -- of a claim that is asked for again by it
    holder         text,
    grp            text,
    name           text,
    reason         text NOT NULL DEFAULT '',
    meta           text,                            -- JSON: headers, content_type, dedup_key, original_name
    history        text,                            -- a line for each delivery that ended: JSON of ours, tab, of theirs
    body           bytea
) WITH (
    -- Every transition changes a column of an index's condition, so no update is heap-only and free room in a page buys
    -- little: what keeps the table small is a vacuum that comes often and does not dawdle.
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

-- Each index holds only what its question is about, so that no state's size slows another's.
CREATE INDEX messages_ready     ON spoolq.messages (queue, held, priority DESC, id) WHERE state = 'ready';
CREATE INDEX messages_scheduled ON spoolq.messages (queue, due_at_ms, id)           WHERE state = 'scheduled';
CREATE INDEX messages_claimed   ON spoolq.messages (queue, deadline_at_ms)          WHERE state = 'claimed';
CREATE INDEX messages_ended     ON spoolq.messages (queue, state, changed_at_ms, id) WHERE state IN ('done', 'dead');
CREATE INDEX messages_expiring  ON spoolq.messages (queue, expires_at_ms)
    WHERE expires_at_ms IS NOT NULL AND state IN ('ready', 'scheduled');
CREATE INDEX messages_group     ON spoolq.messages (queue, grp, id)
    WHERE grp IS NOT NULL AND state IN ('ready', 'scheduled', 'claimed');
CREATE INDEX messages_head      ON spoolq.messages (queue, grp)
    WHERE grp IS NOT NULL AND NOT held AND state IN ('ready', 'scheduled', 'claimed');
CREATE INDEX messages_mark      ON spoolq.messages (queue, mark) WHERE mark IS NOT NULL;

-- Bodies over INLINE_BYTES. Not compressed: they are read in parts, and large files mostly are already.
CREATE TABLE spoolq.chunks (id uuid, number integer, data bytea NOT NULL, PRIMARY KEY (id, number));
ALTER TABLE spoolq.chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- Bodies under way: chunks are committed one by one, so that a slow upload holds no transaction open. What a killed
-- producer leaves is found here.
CREATE TABLE spoolq.uploads (id uuid PRIMARY KEY, begun_at_ms bigint NOT NULL);

-- Deduplication keys, which outlive their message.
CREATE TABLE spoolq.keys (
    queue integer, dedup_key text, id uuid NOT NULL, until_at_ms bigint NOT NULL, PRIMARY KEY (queue, dedup_key)
);
CREATE INDEX keys_until ON spoolq.keys (queue, until_at_ms);

-- Acknowledged receipts whose message is gone. What was claimed at once has one nonce, and mostly ends at once.
CREATE TABLE spoolq.receipts (queue integer NOT NULL, until_at_ms bigint NOT NULL, nonce text NOT NULL, ids uuid[] NOT NULL);
CREATE INDEX receipts_nonce ON spoolq.receipts (nonce);
CREATE INDEX receipts_until ON spoolq.receipts (queue, until_at_ms);

-- Counts. A transaction adds a row to deltas, which nobody waits for; a row that all update would be held to the end of
-- each commit, and of a caller's own transaction for as long as that takes. `fold` adds them up, a second apart.
CREATE TABLE spoolq.deltas (
    queue integer NOT NULL, minute integer NOT NULL,
    ready integer, ready_bytes bigint, scheduled integer, scheduled_bytes bigint, claimed integer, claimed_bytes bigint,
    done integer, done_bytes bigint, dead integer, dead_bytes bigint,
    enqueued integer, acknowledged integer, failed integer, gave_up integer,
    wait_ms bigint, process_ms bigint,
    waits smallint[], takes smallint[]              -- the bucket of each time waited and taken
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX deltas_queue ON spoolq.deltas (queue);

CREATE TABLE spoolq.counts (
    queue integer PRIMARY KEY,
    ready bigint NOT NULL DEFAULT 0, ready_bytes bigint NOT NULL DEFAULT 0,
    scheduled bigint NOT NULL DEFAULT 0, scheduled_bytes bigint NOT NULL DEFAULT 0,
    claimed bigint NOT NULL DEFAULT 0, claimed_bytes bigint NOT NULL DEFAULT 0,
    done bigint NOT NULL DEFAULT 0, done_bytes bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0, dead_bytes bigint NOT NULL DEFAULT 0,
    enqueued bigint NOT NULL DEFAULT 0, acknowledged bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0, gave_up bigint NOT NULL DEFAULT 0,
    wait_ms bigint NOT NULL DEFAULT 0, process_ms bigint NOT NULL DEFAULT 0,
    waits bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0,0,0,0,0}',
    takes bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0,0,0,0,0}'
) WITH (fillfactor = 50);

CREATE TABLE spoolq.minutes (
    queue integer, minute integer,
    enqueued bigint NOT NULL, acknowledged bigint NOT NULL, failed bigint NOT NULL, gave_up bigint NOT NULL,
    ready bigint NOT NULL, scheduled bigint NOT NULL, claimed bigint NOT NULL,   -- by how much they changed in it
    wait_ms bigint NOT NULL, process_ms bigint NOT NULL,
    PRIMARY KEY (queue, minute)
) WITH (fillfactor = 70);
