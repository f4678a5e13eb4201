-- The index of one queue. Disposable: everything here can be had from the files (docs/spool-format.md, section 8).
-- There are no migrations: another user_version is rebuilt.

CREATE TABLE info (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    boot          TEXT NOT NULL,          -- boot id under which it was last written
    mount         TEXT NOT NULL,          -- and the mount of the file system
    made_at_ms    INTEGER NOT NULL,
    next_clean_boot_ms INTEGER NOT NULL DEFAULT 0,   -- who moves these on does the work: nobody holds a lock for it
    next_sweep_boot_ms INTEGER NOT NULL DEFAULT 0,
    next_forget_boot_ms INTEGER NOT NULL DEFAULT 0,
    forget_after       TEXT NOT NULL DEFAULT '',     -- how far the pass over settled rows has come
    last_clean_at_ms   INTEGER NOT NULL DEFAULT 0,
    last_scan_at_ms    INTEGER NOT NULL DEFAULT 0,
    last_scan_ms       INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE messages (
    id             TEXT PRIMARY KEY,
    state          TEXT NOT NULL,         -- ready, scheduled, claimed, done, dead; settled: its file is gone
    held           INTEGER NOT NULL DEFAULT 0,   -- 1: an earlier message of its group is open
    priority       INTEGER NOT NULL,
    due_at_ms      INTEGER,               -- t= of the name, also when it has passed
    attempts       INTEGER NOT NULL,
    nonce          TEXT,                  -- r= of the name; of a settled row, the last delivery
    label          TEXT,                  -- n= of the name
    body_bytes     INTEGER NOT NULL,
    enqueued_at_ms INTEGER NOT NULL,
    ready_at_ms    INTEGER NOT NULL,      -- when it became, or will become, deliverable
    claimed_at_ms  INTEGER,
    ended_at_ms    INTEGER,               -- when it became done, dead or settled
    deadline_boot_ms INTEGER,             -- of a claim, on the boot clock
    deadline_at_ms INTEGER,               -- the file's mtime that this was had from, or that was set with it
    expires_at_ms  INTEGER,
    grp            TEXT,
    has_meta       INTEGER NOT NULL DEFAULT 0,
    reason         TEXT                   -- of a dead letter, or of the last requeue
) STRICT, WITHOUT ROWID;

-- Each index holds only what its question is about, so that no state's size slows another's. Settled rows are in none:
-- they are looked up by id, and a pass over the table, a part each second, finds the old ones.
CREATE INDEX messages_ready     ON messages (held, priority DESC, id) WHERE state = 'ready';
CREATE INDEX messages_scheduled ON messages (due_at_ms, id)           WHERE state = 'scheduled';
CREATE INDEX messages_claimed   ON messages (nonce)                   WHERE state = 'claimed';
CREATE INDEX messages_deadline  ON messages (deadline_boot_ms)        WHERE deadline_boot_ms IS NOT NULL;
CREATE INDEX messages_ended     ON messages (state, ended_at_ms, id)  WHERE state IN ('done', 'dead');
CREATE INDEX messages_expiring  ON messages (expires_at_ms)
    WHERE expires_at_ms IS NOT NULL AND state IN ('ready', 'scheduled');
CREATE INDEX messages_group     ON messages (grp, held, id)
    WHERE grp IS NOT NULL AND state IN ('ready', 'scheduled', 'claimed');

CREATE TABLE keys (
    dedup_key   TEXT PRIMARY KEY,
    id          TEXT NOT NULL,
    until_at_ms INTEGER NOT NULL,
    reserved    INTEGER NOT NULL          -- 1: its writer has not finished; tmp/<id> is flocked while it lives
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_until ON keys (until_at_ms);

-- Counts, totals and history in one: a row for each minute in which something happened, with running sums. The last
-- row is the present; the difference of two rows is what happened between them; one UPDATE keeps all of it.
-- w0..w11 and p0..p11 count times waited and taken, by BUCKETS_S in index.py.
CREATE TABLE ledger (
    minute       INTEGER PRIMARY KEY,     -- UTC, since 1970
    ready        INTEGER NOT NULL DEFAULT 0,  ready_bytes     INTEGER NOT NULL DEFAULT 0,
    scheduled    INTEGER NOT NULL DEFAULT 0,  scheduled_bytes INTEGER NOT NULL DEFAULT 0,
    claimed      INTEGER NOT NULL DEFAULT 0,  claimed_bytes   INTEGER NOT NULL DEFAULT 0,
    done         INTEGER NOT NULL DEFAULT 0,  done_bytes      INTEGER NOT NULL DEFAULT 0,
    dead         INTEGER NOT NULL DEFAULT 0,  dead_bytes      INTEGER NOT NULL DEFAULT 0,
    enqueued     INTEGER NOT NULL DEFAULT 0,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    failed       INTEGER NOT NULL DEFAULT 0,
    gave_up      INTEGER NOT NULL DEFAULT 0,
    wait_ms      INTEGER NOT NULL DEFAULT 0,
    process_ms   INTEGER NOT NULL DEFAULT 0,
    w0 INTEGER NOT NULL DEFAULT 0, w1 INTEGER NOT NULL DEFAULT 0, w2  INTEGER NOT NULL DEFAULT 0,
    w3 INTEGER NOT NULL DEFAULT 0, w4 INTEGER NOT NULL DEFAULT 0, w5  INTEGER NOT NULL DEFAULT 0,
    w6 INTEGER NOT NULL DEFAULT 0, w7 INTEGER NOT NULL DEFAULT 0, w8  INTEGER NOT NULL DEFAULT 0,
    w9 INTEGER NOT NULL DEFAULT 0, w10 INTEGER NOT NULL DEFAULT 0, w11 INTEGER NOT NULL DEFAULT 0,
    p0 INTEGER NOT NULL DEFAULT 0, p1 INTEGER NOT NULL DEFAULT 0, p2  INTEGER NOT NULL DEFAULT 0,
    p3 INTEGER NOT NULL DEFAULT 0, p4 INTEGER NOT NULL DEFAULT 0, p5  INTEGER NOT NULL DEFAULT 0,
    p6 INTEGER NOT NULL DEFAULT 0, p7 INTEGER NOT NULL DEFAULT 0, p8  INTEGER NOT NULL DEFAULT 0,
    p9 INTEGER NOT NULL DEFAULT 0, p10 INTEGER NOT NULL DEFAULT 0, p11 INTEGER NOT NULL DEFAULT 0
) STRICT;
