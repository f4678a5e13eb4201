-- Every transition a message can make, one function each, called by statements.py and fit for psql. Replaced as a whole by
-- `spoolq engine upgrade`.
--
-- Locks are taken in this order, so that nobody waits in a circle: the queue's limits, groups by their key, dedup keys, rows.
-- Whoever comes by on the way to something else (claim, maintain) waits for no lock: it skips.
-- What is called often is plpgsql, but for single expressions: its plans are kept, those of LANGUAGE sql are made each time.
-- Plans are made from statistics that may be of another hour, so each question leaves one index to choose from. By id: what
-- is claimed is what has a deadline, since state = 'claimed' would offer the index of all that is. In order: the order's
-- columns are bounded with BETWEEN, since = would leave ORDER BY id, and offer all ids from the first.
-- Names: p_... are arguments. Errors: SQ001 no such queue, SQ002 the queue is full.

CREATE FUNCTION spoolq.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

CREATE FUNCTION spoolq.deny_deleted() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the queue was deleted' USING ERRCODE = 'SQ001';
END $$;

-- What one statement has seen another one has changed since: nothing was done, and the call is made again.
CREATE FUNCTION spoolq.expect(p_number integer, p_expected integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF p_number <> p_expected THEN
        RAISE EXCEPTION 'somebody was faster' USING ERRCODE = 'serialization_failure';
    END IF;
END $$;

-- What is called for each message looks itself: a function less, and only the columns that it needs.
CREATE FUNCTION spoolq.queue_row(p_queue integer) RETURNS spoolq.queues LANGUAGE plpgsql AS $$
DECLARE
    found_queue spoolq.queues;
BEGIN
    SELECT * INTO found_queue FROM spoolq.queues WHERE id = p_queue;
    IF NOT FOUND THEN
        PERFORM spoolq.deny_deleted();
    END IF;
    RETURN found_queue;
END $$;

-- Which of the twelve buckets a duration falls into: at most 5 ms, 25 ms, ... BUCKETS_S in statements.py.
CREATE FUNCTION spoolq.bucket(p_ms bigint) RETURNS smallint LANGUAGE sql IMMUTABLE AS $$
    SELECT width_bucket(p_ms - 1, '{5,25,100,500,1000,5000,30000,120000,600000,3600000,21600000}'::bigint[])::smallint
$$;

-- Groups -----------------------------------------------------------------------------------------------------------------

CREATE FUNCTION spoolq.group_key(p_queue integer, p_grp text) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtextextended('spoolq/' || p_queue || '/' || p_grp, 0)
$$;

CREATE FUNCTION spoolq.lock_groups(p_queue integer, p_groups text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    key bigint;
BEGIN
    FOR key IN SELECT DISTINCT spoolq.group_key(p_queue, each) FROM unnest(p_groups) AS each WHERE each IS NOT NULL ORDER BY 1 LOOP
        PERFORM pg_advisory_xact_lock(key);
    END LOOP;
END $$;

CREATE FUNCTION spoolq.lock_groups_of(p_queue integer, p_ids uuid[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    groups text[] := (SELECT array_agg(DISTINCT grp) FROM spoolq.messages WHERE id = ANY (p_ids) AND grp IS NOT NULL);
BEGIN
    IF groups IS NOT NULL THEN
        PERFORM spoolq.lock_groups(p_queue, groups);
    END IF;
    RETURN groups;
END $$;

-- Of a group one is not held: the one under way, else the first. The caller has the group's lock.
CREATE FUNCTION spoolq.settle_group(p_queue integer, p_grp text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    head record;
    first uuid;
BEGIN
    -- FOR UPDATE waits for a claim under way, which waits for nobody, and then shows its state.
    SELECT id, state INTO head FROM spoolq.messages
        WHERE queue = p_queue AND grp = p_grp AND NOT held AND state IN ('ready', 'scheduled', 'claimed') FOR UPDATE;
    IF head.state = 'claimed' THEN
        RETURN;
    END IF;
    SELECT id INTO first FROM spoolq.messages
        WHERE queue = p_queue AND grp BETWEEN p_grp AND p_grp AND state IN ('ready', 'scheduled', 'claimed')
        ORDER BY grp, id LIMIT 1;
    IF first IS DISTINCT FROM head.id THEN
        UPDATE spoolq.messages SET held = true WHERE id = head.id;
        UPDATE spoolq.messages SET held = false WHERE id = first;
    END IF;
END $$;

CREATE FUNCTION spoolq.settle_groups(p_queue integer, p_groups text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM spoolq.settle_group(p_queue, each) FROM (SELECT DISTINCT unnest(p_groups)) AS groups (each) WHERE each IS NOT NULL;
END $$;

-- Into the queue ---------------------------------------------------------------------------------------------------------

-- Messages, column by column; a column that is NULL has every default. known: the id that each stands for, where a key
-- was known; NULL without keys. p_again: it may have been done before, so what is there is left.
CREATE FUNCTION spoolq.enqueue(
    p_queue integer, p_ids uuid[], p_bodies bytea[], p_sizes bigint[], p_chunks integer[], p_enqueued_at_ms bigint,
    p_priorities smallint[], p_delays_ms bigint[], p_ttls_ms bigint[], p_names text[], p_metas text[], p_keys text[],
    p_groups text[], p_again boolean, OUT known uuid[], OUT is_awaited boolean
) LANGUAGE plpgsql AS $$
DECLARE
    q spoolq.queues := spoolq.queue_row(p_queue);
    at_ms bigint := spoolq.now_ms();
    left_out uuid[] := '{}';
BEGIN
    is_awaited := q.awaited_until_ms > at_ms AND NOT q.paused;
    IF q.limit_messages > 0 OR q.limit_bytes > 0 THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('spoolq limits/' || p_queue, 0));
    END IF;
    IF p_groups IS NOT NULL THEN
        PERFORM spoolq.lock_groups(p_queue, p_groups);
    END IF;
    IF p_again THEN
        -- There, or there within the ten minutes that receipts are kept: who asks again may have been stopped meanwhile.
        left_out := ARRAY(
            SELECT id FROM spoolq.messages WHERE id = ANY (p_ids) UNION
            SELECT each.id FROM spoolq.receipts AS r, unnest(r.ids) AS each (id)
            WHERE r.queue = p_queue AND r.until_at_ms > at_ms AND each.id = ANY (p_ids)
        );
    END IF;
    IF p_keys IS NOT NULL THEN
        known := spoolq.note_keys(q, at_ms, p_ids, p_keys);
        left_out := left_out || ARRAY(SELECT p_ids[n] FROM generate_subscripts(p_ids, 1) AS n WHERE known[n] <> p_ids[n]);
    END IF;
    IF q.limit_messages > 0 OR q.limit_bytes > 0 THEN
        PERFORM spoolq.check_room(q, p_ids, p_bodies, p_sizes, left_out);
    END IF;
    -- By place, not by unnest: that would make a table of each of the eleven arrays.
    INSERT INTO spoolq.messages (
        id, queue, state, held, priority, body_bytes, chunks, enqueued_at_ms, changed_at_ms, due_at_ms, expires_at_ms, grp,
        name, meta, body
    )
    SELECT
        p_ids[n], p_queue, CASE WHEN p_delays_ms[n] > 0 THEN 'scheduled' ELSE 'ready' END, p_groups[n] IS NOT NULL,
        coalesce(p_priorities[n], 5), coalesce(p_sizes[n], octet_length(p_bodies[n])), coalesce(p_chunks[n], 0),
        p_enqueued_at_ms, at_ms, CASE WHEN p_delays_ms[n] > 0 THEN at_ms + p_delays_ms[n] END,
        CASE WHEN coalesce(p_ttls_ms[n], q.ttl_ms) > 0 THEN at_ms + coalesce(p_ttls_ms[n], q.ttl_ms) END,
        p_groups[n], p_names[n], p_metas[n], p_bodies[n]
    FROM generate_subscripts(p_ids, 1) AS n WHERE p_ids[n] <> ALL (left_out);
    IF FOUND THEN
        INSERT INTO spoolq.deltas (queue, minute, ready, ready_bytes, scheduled, scheduled_bytes, enqueued)
        SELECT
            p_queue, at_ms / 60000, count(*) FILTER (WHERE NOT later), sum(size) FILTER (WHERE NOT later),
            count(*) FILTER (WHERE later), sum(size) FILTER (WHERE later), count(*)
        FROM (
            SELECT coalesce(p_sizes[n], octet_length(p_bodies[n])) AS size, coalesce(p_delays_ms[n], 0) > 0 AS later
            FROM generate_subscripts(p_ids, 1) AS n WHERE p_ids[n] <> ALL (left_out)
        ) AS made;
    END IF;
    IF p_chunks IS NOT NULL THEN
        DELETE FROM spoolq.chunks WHERE id = ANY (left_out) AND id NOT IN (SELECT id FROM spoolq.messages WHERE id = ANY (left_out));
        DELETE FROM spoolq.uploads WHERE id = ANY (p_ids);
    END IF;
    IF p_groups IS NOT NULL THEN
        PERFORM spoolq.settle_groups(p_queue, p_groups);
    END IF;
END $$;

-- Several with nothing but a body, as most are, for much less work: whether somebody waits.
CREATE FUNCTION spoolq.enqueue_plain(
    p_queue integer, p_ids uuid[], p_bodies bytea[], p_enqueued_at_ms bigint, p_again boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    q record;
    at_ms bigint := spoolq.now_ms();
BEGIN
    SELECT limit_messages, limit_bytes, ttl_ms, awaited_until_ms, paused INTO q FROM spoolq.queues WHERE id = p_queue;
    IF NOT FOUND THEN
        PERFORM spoolq.deny_deleted();
    END IF;
    IF p_again OR q.limit_messages > 0 OR q.limit_bytes > 0 THEN
        RETURN (
            SELECT made.is_awaited FROM spoolq.enqueue(
                p_queue, p_ids, p_bodies, NULL, NULL, p_enqueued_at_ms, NULL, NULL, NULL, NULL, NULL, NULL, NULL, p_again
            ) AS made
        );
    END IF;
    INSERT INTO spoolq.messages (id, queue, state, priority, body_bytes, enqueued_at_ms, changed_at_ms, expires_at_ms, body)
    SELECT
        each.id, p_queue, 'ready', 5, octet_length(each.body), p_enqueued_at_ms, at_ms,
        CASE WHEN q.ttl_ms > 0 THEN at_ms + q.ttl_ms END, each.body
    FROM (SELECT unnest(p_ids) AS id, unnest(p_bodies) AS body) AS each;
    INSERT INTO spoolq.deltas (queue, minute, ready, ready_bytes, enqueued)
        SELECT p_queue, at_ms / 60000, count(*), sum(octet_length(each)), count(*) FROM unnest(p_bodies) AS each;
    RETURN q.awaited_until_ms > at_ms AND NOT q.paused;
END $$;

-- One with nothing but a body, and perhaps headers and a name: whether somebody waits.
CREATE FUNCTION spoolq.enqueue_one(
    p_queue integer, p_id uuid, p_body bytea, p_enqueued_at_ms bigint, p_priority smallint, p_name text, p_meta text,
    p_again boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    q record;
    at_ms bigint := spoolq.now_ms();
BEGIN
    SELECT limit_messages, limit_bytes, ttl_ms, awaited_until_ms, paused INTO q FROM spoolq.queues WHERE id = p_queue;
    IF NOT FOUND THEN
        PERFORM spoolq.deny_deleted();
    END IF;
    IF p_again OR q.limit_messages > 0 OR q.limit_bytes > 0 THEN
        RETURN (
            SELECT made.is_awaited FROM spoolq.enqueue(
                p_queue, ARRAY[p_id], ARRAY[p_body], NULL, NULL, p_enqueued_at_ms, ARRAY[p_priority], NULL, NULL,
                ARRAY[p_name], ARRAY[p_meta], NULL, NULL, p_again
            ) AS made
        );
    END IF;
    INSERT INTO spoolq.messages (
        id, queue, state, priority, body_bytes, enqueued_at_ms, changed_at_ms, expires_at_ms, name, meta, body
    ) VALUES (
        p_id, p_queue, 'ready', p_priority, octet_length(p_body), p_enqueued_at_ms, at_ms,
        CASE WHEN q.ttl_ms > 0 THEN at_ms + q.ttl_ms END, p_name, p_meta, p_body
    );
    INSERT INTO spoolq.deltas (queue, minute, ready, ready_bytes, enqueued)
        VALUES (p_queue, at_ms / 60000, 1, octet_length(p_body), 1);
    RETURN q.awaited_until_ms > at_ms AND NOT q.paused;
END $$;

-- The id that each message stands for: its own, or that of the first with its key.
CREATE FUNCTION spoolq.note_keys(q spoolq.queues, p_at_ms bigint, p_ids uuid[], p_keys text[]) RETURNS uuid[]
LANGUAGE plpgsql AS $$
DECLARE
    known uuid[] := p_ids;
    first uuid;
BEGIN
    FOR n IN 1 .. cardinality(p_ids) LOOP
        CONTINUE WHEN p_keys[n] IS NULL;
        INSERT INTO spoolq.keys AS k (queue, dedup_key, id, until_at_ms)
            VALUES (q.id, p_keys[n], p_ids[n], p_at_ms + q.dedup_window_ms)
            ON CONFLICT (queue, dedup_key) DO UPDATE SET id = excluded.id, until_at_ms = excluded.until_at_ms
            WHERE k.until_at_ms <= p_at_ms;
        IF NOT FOUND THEN
            SELECT id INTO first FROM spoolq.keys WHERE queue = q.id AND dedup_key = p_keys[n];
            known[n] := first;
        END IF;
    END LOOP;
    RETURN known;
END $$;

CREATE FUNCTION spoolq.check_room(q spoolq.queues, p_ids uuid[], p_bodies bytea[], p_sizes bigint[], p_left_out uuid[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    new record;
    there spoolq.counts := spoolq.present(q.id);
BEGIN
    SELECT count(*) AS number, coalesce(sum(coalesce(each.size, octet_length(each.body))), 0) AS size INTO new
        FROM unnest(p_ids, p_bodies, p_sizes) AS each (id, body, size) WHERE each.id <> ALL (p_left_out);
    IF new.number = 0 THEN
        RETURN;
    END IF;
    IF q.limit_messages > 0 AND there.ready + there.scheduled + new.number > q.limit_messages THEN
        RAISE EXCEPTION '% messages wait: limits.messages = %', there.ready + there.scheduled, q.limit_messages
            USING ERRCODE = 'SQ002';
    END IF;
    IF q.limit_bytes > 0 AND there.ready_bytes + there.scheduled_bytes + new.size > q.limit_bytes THEN
        RAISE EXCEPTION 'no room for % bytes more: limits.bytes = %', new.size, q.limit_bytes USING ERRCODE = 'SQ002';
    END IF;
END $$;

CREATE FUNCTION spoolq.add_chunk(p_id uuid, p_number integer, p_data bytea) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO spoolq.uploads VALUES (p_id, spoolq.now_ms()) ON CONFLICT (id) DO NOTHING;
    INSERT INTO spoolq.chunks VALUES (p_id, p_number, p_data) ON CONFLICT (id, number) DO NOTHING;
END $$;

CREATE FUNCTION spoolq.drop_upload(p_id uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM spoolq.chunks WHERE id IN (SELECT id FROM spoolq.uploads WHERE id = p_id);
    DELETE FROM spoolq.uploads WHERE id = p_id;
END $$;

-- A delivery -------------------------------------------------------------------------------------------------------------

-- Claims, all by p_nonce, which nobody has used before; in no order. p_again, or a mark: what was claimed so before is
-- answered again.
CREATE FUNCTION spoolq.claim(
    p_queue integer, p_count integer, p_nonce text, p_mark text, p_holder text, p_lease_ms bigint, p_again boolean,
    p_inline bigint
) RETURNS TABLE (
    id uuid, nonce text, attempts integer, priority smallint, name text, body_bytes bigint, enqueued_at_ms bigint, meta text,
    grp text, body bytea
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    q spoolq.queues;
    at_ms bigint := spoolq.now_ms();
    one record;
    several record;
    number integer;
BEGIN
    SELECT * INTO q FROM spoolq.queues AS each WHERE each.id = p_queue;
    IF NOT FOUND THEN
        PERFORM spoolq.deny_deleted();
    END IF;
    IF p_again OR p_mark IS NOT NULL THEN
        RETURN QUERY SELECT
            m.id, m.nonce, m.attempts, m.priority, m.name, m.body_bytes, m.enqueued_at_ms, m.meta, m.grp,
            CASE WHEN m.body_bytes <= p_inline THEN m.body END
        FROM spoolq.messages AS m
        WHERE m.queue = p_queue AND m.state = 'claimed'
            AND CASE WHEN p_mark IS NULL THEN m.nonce = p_nonce ELSE m.mark = p_mark END
        ORDER BY m.priority DESC, m.id;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    PERFORM spoolq.do_what_is_due(q, at_ms, 100);
    IF q.paused THEN
        RETURN;
    END IF;
    -- By ctid, which stays while the row is locked. By id a plan may read that index from its beginning, past all that is done.
    IF p_count = 1 THEN  -- short statements are less work than one long one
        SELECT m.ctid AS place, m.changed_at_ms INTO one FROM spoolq.messages AS m
            WHERE m.queue = p_queue AND m.state = 'ready' AND NOT m.held
                AND (m.expires_at_ms IS NULL OR m.expires_at_ms > at_ms)
            ORDER BY m.priority DESC, m.id LIMIT 1 FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        UPDATE spoolq.messages AS m SET
            state = 'claimed', attempts = m.attempts + 1, nonce = p_nonce, mark = p_mark, holder = p_holder,
            changed_at_ms = at_ms, deadline_at_ms = at_ms + coalesce(p_lease_ms, q.lease_ms)
            WHERE m.ctid = one.place
            RETURNING
                m.id, m.nonce, m.attempts, m.priority, m.name, m.body_bytes, m.enqueued_at_ms, m.meta, m.grp,
                CASE WHEN m.body_bytes <= p_inline THEN m.body END
            INTO id, nonce, attempts, priority, name, body_bytes, enqueued_at_ms, meta, grp, body;
        IF NOT FOUND THEN  -- an answer of nothing but NULL would be a message to whoever asks
            RETURN;
        END IF;
        one.changed_at_ms := greatest(at_ms - one.changed_at_ms, 0);
        INSERT INTO spoolq.deltas (queue, minute, ready, ready_bytes, claimed, claimed_bytes, wait_ms, waits)
            VALUES (
                p_queue, at_ms / 60000, -1, -claim.body_bytes, 1, claim.body_bytes, one.changed_at_ms,
                ARRAY[spoolq.bucket(one.changed_at_ms)]
            );
        RETURN NEXT;
        RETURN;
    END IF;
    -- Locked by one statement, taken by the next, whose snapshot is later: it sees each row as it was locked.
    SELECT
        array_agg(chosen.place) AS places, sum(chosen.body_bytes) AS bytes, sum(chosen.waited_ms) AS waited_ms,
        array_agg(spoolq.bucket(chosen.waited_ms)) AS waits
    INTO several FROM (
        SELECT m.ctid AS place, m.body_bytes, greatest(at_ms - m.changed_at_ms, 0) AS waited_ms FROM spoolq.messages AS m
        WHERE m.queue = p_queue AND m.state = 'ready' AND NOT m.held AND (m.expires_at_ms IS NULL OR m.expires_at_ms > at_ms)
        ORDER BY m.priority DESC, m.id LIMIT p_count FOR UPDATE SKIP LOCKED
    ) AS chosen;
    IF several.places IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY UPDATE spoolq.messages AS m SET
        state = 'claimed', attempts = m.attempts + 1, nonce = p_nonce, mark = p_mark, holder = p_holder,
        changed_at_ms = at_ms, deadline_at_ms = at_ms + coalesce(p_lease_ms, q.lease_ms)
    WHERE m.ctid = ANY (several.places)
    RETURNING
        m.id, m.nonce, m.attempts, m.priority, m.name, m.body_bytes, m.enqueued_at_ms, m.meta, m.grp,
        CASE WHEN m.body_bytes <= p_inline THEN m.body END;
    GET DIAGNOSTICS number = ROW_COUNT;
    PERFORM spoolq.expect(number, cardinality(several.places));
    INSERT INTO spoolq.deltas (queue, minute, ready, ready_bytes, claimed, claimed_bytes, wait_ms, waits)
        VALUES (p_queue, at_ms / 60000, -number, -several.bytes, number, several.bytes, several.waited_ms, several.waits);
END $$;

-- p_nonces: of each, or one of all: what was claimed at once has one. Answers the places (from 1) of those whose claim had
-- ended.
CREATE FUNCTION spoolq.acknowledge(p_queue integer, p_ids uuid[], p_nonces text[]) RETURNS integer[] LANGUAGE plpgsql AS $$
DECLARE
    at_ms bigint := spoolq.now_ms();
    keeps_ms bigint;
    groups text[];
    settled integer;
BEGIN
    SELECT done_ms INTO keeps_ms FROM spoolq.queues WHERE id = p_queue;
    IF NOT FOUND THEN
        PERFORM spoolq.deny_deleted();
    END IF;
    IF EXISTS (
        SELECT FROM spoolq.messages WHERE queue = p_queue AND grp IS NOT NULL AND state IN ('ready', 'scheduled', 'claimed')
    ) THEN
        groups := spoolq.lock_groups_of(p_queue, p_ids);
    END IF;
    settled := spoolq.finish(p_queue, p_ids, p_nonces, at_ms, keeps_ms);
    IF groups IS NOT NULL THEN
        PERFORM spoolq.settle_groups(p_queue, groups);
    END IF;
    IF settled = cardinality(p_ids) THEN
        RETURN '{}';
    END IF;
    RETURN spoolq.lost_of(p_queue, p_ids, p_nonces, at_ms);
END $$;

-- Acknowledged, and gone at once where nothing is kept: how many.
CREATE FUNCTION spoolq.finish(p_queue integer, p_ids uuid[], p_nonces text[], p_at_ms bigint, p_done_ms bigint) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    of_all text := CASE WHEN cardinality(p_nonces) = 1 THEN p_nonces[1] END;
    one record;
    several record;
    settled integer;
    in_parts uuid[];
BEGIN
    IF p_done_ms > 0 THEN
        WITH held AS (
            SELECT id, changed_at_ms AS since_ms FROM spoolq.messages
            WHERE id = ANY (p_ids) AND queue = p_queue AND deadline_at_ms IS NOT NULL AND CASE
                WHEN of_all IS NULL THEN (id, nonce) IN (SELECT * FROM unnest(p_ids, p_nonces)) ELSE nonce = of_all END
            FOR UPDATE
        ), ended AS (
            UPDATE spoolq.messages AS m SET
                state = 'done', changed_at_ms = p_at_ms, deadline_at_ms = NULL, mark = NULL, holder = NULL, reason = ''
            FROM held WHERE m.id = held.id
            RETURNING m.body_bytes, greatest(p_at_ms - held.since_ms, 0) AS taken_ms
        )
        INSERT INTO spoolq.deltas (queue, minute, claimed, claimed_bytes, done, done_bytes, acknowledged, process_ms, takes)
        SELECT
            p_queue, p_at_ms / 60000, -count(*), -sum(body_bytes), count(*), sum(body_bytes), count(*), sum(taken_ms),
            array_agg(spoolq.bucket(taken_ms))
        FROM ended HAVING count(*) > 0 RETURNING done INTO settled;
        RETURN settled;
    END IF;
    IF cardinality(p_ids) = 1 THEN  -- as most are: three short statements are less work than one long one
        DELETE FROM spoolq.messages WHERE id = p_ids[1] AND nonce = of_all AND queue = p_queue AND deadline_at_ms IS NOT NULL
            RETURNING body_bytes, chunks, greatest(p_at_ms - changed_at_ms, 0) AS taken_ms INTO one;
        IF NOT FOUND THEN
            RETURN 0;
        END IF;
        INSERT INTO spoolq.receipts (queue, until_at_ms, nonce, ids) VALUES (p_queue, p_at_ms + 600000, of_all, p_ids);
        INSERT INTO spoolq.deltas (queue, minute, claimed, claimed_bytes, acknowledged, process_ms, takes)
            VALUES (p_queue, p_at_ms / 60000, -1, -one.body_bytes, 1, one.taken_ms, ARRAY[spoolq.bucket(one.taken_ms)]);
        settled := 1;
        in_parts := CASE WHEN one.chunks > 0 THEN p_ids END;
    ELSE
        -- Looked at by one statement, deleted by the next: less work than one that does all.
        SELECT
            count(*)::integer AS number, array_agg(m.place) AS places, array_agg(m.id) AS ids, array_agg(m.nonce) AS nonces,
            sum(m.body_bytes) AS bytes, sum(m.taken_ms) AS taken_ms, array_agg(spoolq.bucket(m.taken_ms)) AS takes,
            array_agg(m.id) FILTER (WHERE m.chunks > 0) AS in_parts
        INTO several FROM (
            SELECT ctid AS place, id, nonce, body_bytes, chunks, greatest(p_at_ms - changed_at_ms, 0) AS taken_ms
            FROM spoolq.messages
            WHERE id = ANY (p_ids) AND queue = p_queue AND deadline_at_ms IS NOT NULL AND CASE
                WHEN of_all IS NULL THEN (id, nonce) IN (SELECT * FROM unnest(p_ids, p_nonces)) ELSE nonce = of_all END
        ) AS m;
        IF several.number = 0 THEN
            RETURN 0;
        END IF;
        -- The conditions again: whoever changed a row meanwhile is waited for, and what it has become is judged by them
        -- (not every release of PostgreSQL judges it by the ctid as well).
        DELETE FROM spoolq.messages
            WHERE ctid = ANY (several.places) AND queue = p_queue AND deadline_at_ms IS NOT NULL AND CASE
                WHEN of_all IS NULL THEN (id, nonce) IN (SELECT * FROM unnest(p_ids, p_nonces)) ELSE nonce = of_all END;
        GET DIAGNOSTICS settled = ROW_COUNT;
        PERFORM spoolq.expect(settled, several.number);
        IF of_all IS NULL THEN
            INSERT INTO spoolq.receipts (queue, until_at_ms, nonce, ids)
                SELECT p_queue, p_at_ms + 600000, each.nonce, array_agg(each.id)
                FROM unnest(several.ids, several.nonces) AS each (id, nonce) GROUP BY each.nonce;
        ELSE
            INSERT INTO spoolq.receipts (queue, until_at_ms, nonce, ids)
                VALUES (p_queue, p_at_ms + 600000, of_all, several.ids);
        END IF;
        INSERT INTO spoolq.deltas (queue, minute, claimed, claimed_bytes, acknowledged, process_ms, takes)
            VALUES (p_queue, p_at_ms / 60000, -settled, -several.bytes, settled, several.taken_ms, several.takes);
        in_parts := several.in_parts;
    END IF;
    IF in_parts IS NOT NULL THEN
        DELETE FROM spoolq.chunks WHERE id = ANY (in_parts);
    END IF;
    RETURN settled;
END $$;

-- The places of receipts that were not acknowledged, ever: again with the same one is success, as its row or the memory of
-- it tells.
CREATE FUNCTION spoolq.lost_of(p_queue integer, p_ids uuid[], p_nonces text[], p_at_ms bigint) RETURNS integer[]
LANGUAGE plpgsql AS $$
BEGIN
    RETURN ARRAY(
        SELECT asked.place::integer FROM (
            SELECT id, coalesce(nonce, p_nonces[1]) AS nonce, place
            FROM unnest(p_ids, p_nonces) WITH ORDINALITY AS each (id, nonce, place)
        ) AS asked
        WHERE NOT EXISTS (
            SELECT FROM spoolq.messages AS m
            WHERE m.id = asked.id AND m.queue = p_queue AND m.deadline_at_ms IS NULL AND m.nonce = asked.nonce
        ) AND NOT EXISTS (
            SELECT FROM spoolq.receipts AS r
            WHERE r.nonce = asked.nonce AND asked.id = ANY (r.ids) AND r.queue = p_queue AND r.until_at_ms > p_at_ms
        ) ORDER BY asked.place
    );
END $$;

CREATE FUNCTION spoolq.release(p_queue integer, p_id uuid, p_nonce text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    at_ms bigint := spoolq.now_ms();
    groups text[] := spoolq.lock_groups_of(p_queue, ARRAY[p_id]);
    size bigint;
BEGIN
    UPDATE spoolq.messages SET
        state = 'ready', attempts = attempts - 1, changed_at_ms = at_ms, nonce = NULL, mark = NULL, holder = NULL,
        deadline_at_ms = NULL
    WHERE id = p_id AND queue = p_queue AND deadline_at_ms IS NOT NULL AND nonce = p_nonce RETURNING body_bytes INTO size;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO spoolq.deltas (queue, minute, claimed, claimed_bytes, ready, ready_bytes)
        VALUES (p_queue, at_ms / 60000, -1, -size, 1, size);
    PERFORM spoolq.settle_groups(p_queue, groups);
    RETURN true;
END $$;

CREATE FUNCTION spoolq.extend(p_queue integer, p_id uuid, p_nonce text, p_lease_ms bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE spoolq.messages SET deadline_at_ms = spoolq.now_ms() + p_lease_ms
        WHERE id = p_id AND queue = p_queue AND deadline_at_ms IS NOT NULL AND nonce = p_nonce;
    RETURN FOUND;
END $$;

-- Failed: the state it is in now, NULL where the claim had ended. p_nonce NULL: whoever holds it. p_line: what the caller
-- knows of it, JSON; p_dead_reason and p_dead_line where this was the last attempt.
CREATE FUNCTION spoolq.fail(
    p_queue integer, p_id uuid, p_nonce text, p_delay_ms bigint, p_outcome text, p_reason text, p_line text,
    p_dead_reason text, p_dead_line text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    q spoolq.queues := spoolq.queue_row(p_queue);
    groups text[] := spoolq.lock_groups_of(p_queue, ARRAY[p_id]);
    ended text;
BEGIN
    PERFORM FROM spoolq.messages
        WHERE id = p_id AND queue = p_queue AND deadline_at_ms IS NOT NULL AND (p_nonce IS NULL OR nonce = p_nonce) FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    ended := spoolq.end_failed(
        q, p_id, spoolq.now_ms(), p_delay_ms, p_outcome, p_reason, p_line, p_dead_reason, p_dead_line
    );
    PERFORM spoolq.settle_groups(p_queue, groups);
    RETURN ended;
END $$;

-- The rest of `fail`, of a row that the caller has locked, with its group.
CREATE FUNCTION spoolq.end_failed(
    q spoolq.queues, p_id uuid, p_at_ms bigint, p_delay_ms bigint, p_outcome text, p_reason text, p_line text,
    p_dead_reason text, p_dead_line text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    m record;
    delay_ms bigint;
BEGIN
    SELECT attempts, body_bytes INTO m FROM spoolq.messages WHERE id = p_id;
    IF m.attempts >= q.max_attempts THEN
        PERFORM spoolq.die(q.id, p_id, p_at_ms, 'dead', p_dead_reason, p_dead_line);
        INSERT INTO spoolq.deltas (queue, minute, failed) VALUES (q.id, p_at_ms / 60000, 1);
        RETURN 'dead';
    END IF;
    delay_ms := coalesce(p_delay_ms, spoolq.backoff_ms(q, m.attempts));
    UPDATE spoolq.messages SET
        history = concat_ws(E'\n', history, spoolq.history_line(attempts, p_outcome, p_at_ms, nonce, changed_at_ms, p_line)),
        state = CASE WHEN delay_ms > 0 THEN 'scheduled' ELSE 'ready' END, changed_at_ms = p_at_ms,
        due_at_ms = CASE WHEN delay_ms > 0 THEN p_at_ms + delay_ms END, reason = p_reason,
        nonce = NULL, mark = NULL, holder = NULL, deadline_at_ms = NULL
    WHERE id = p_id;
    INSERT INTO spoolq.deltas (queue, minute, claimed, claimed_bytes, ready, ready_bytes, scheduled, scheduled_bytes, failed)
    SELECT
        q.id, p_at_ms / 60000, -1, -m.body_bytes, CASE WHEN delay_ms > 0 THEN 0 ELSE 1 END,
        CASE WHEN delay_ms > 0 THEN 0 ELSE m.body_bytes END, CASE WHEN delay_ms > 0 THEN 1 ELSE 0 END,
        CASE WHEN delay_ms > 0 THEN m.body_bytes ELSE 0 END, 1;
    RETURN CASE WHEN delay_ms > 0 THEN 'scheduled' ELSE 'ready' END;
END $$;

-- As spoolq/retry.py, in one place with the attempts.
CREATE FUNCTION spoolq.backoff_ms(q spoolq.queues, p_attempts integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    wait_ms double precision := q.retry_cap_ms;
BEGIN
    IF cardinality(q.retry_list_ms) > 0 THEN
        RETURN round(q.retry_list_ms[least(p_attempts, cardinality(q.retry_list_ms))]);
    END IF;
    IF q.retry_base_ms = 0 THEN
        RETURN 0;
    END IF;
    IF (p_attempts - 1) * ln(q.retry_factor) < 300 THEN  -- past it, over any cap, and over what a number can say
        wait_ms := least(q.retry_cap_ms, q.retry_base_ms * power(q.retry_factor, p_attempts - 1));
    END IF;
    RETURN round(least(q.retry_cap_ms, wait_ms * (1 + q.retry_jitter * (2 * random() - 1))));
END $$;

CREATE FUNCTION spoolq.history_line(
    p_attempts integer, p_outcome text, p_at_ms bigint, p_nonce text, p_since_ms bigint, p_line text
) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT json_build_object(
        'attempt', p_attempts, 'outcome', p_outcome, 'ended_at_ms', p_at_ms, 'nonce', coalesce(p_nonce, ''),
        'duration_s', CASE WHEN p_nonce IS NOT NULL THEN (p_at_ms - p_since_ms) / 1000.0 END
    )::text || E'\t' || p_line
$$;

CREATE FUNCTION spoolq.bury(p_queue integer, p_id uuid, p_nonce text, p_reason text, p_line text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    groups text[] := spoolq.lock_groups_of(p_queue, ARRAY[p_id]);
BEGIN
    PERFORM FROM spoolq.messages WHERE id = p_id AND queue = p_queue AND deadline_at_ms IS NOT NULL AND nonce = p_nonce FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM spoolq.die(p_queue, p_id, spoolq.now_ms(), 'dead', p_reason, p_line);
    PERFORM spoolq.settle_groups(p_queue, groups);
    RETURN true;
END $$;

-- A locked row, in whatever state, to dead.
CREATE FUNCTION spoolq.die(p_queue integer, p_id uuid, p_at_ms bigint, p_outcome text, p_reason text, p_line text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    m record;
BEGIN
    SELECT state, body_bytes INTO m FROM spoolq.messages WHERE id = p_id;
    UPDATE spoolq.messages SET
        history = concat_ws(E'\n', history, spoolq.history_line(attempts, p_outcome, p_at_ms, nonce, changed_at_ms, p_line)),
        state = 'dead', changed_at_ms = p_at_ms, due_at_ms = NULL, reason = p_reason, held = false,
        nonce = NULL, mark = NULL, holder = NULL, deadline_at_ms = NULL
    WHERE id = p_id;
    PERFORM spoolq.note_gone(p_queue, p_at_ms, m.state, 1, m.body_bytes);
    INSERT INTO spoolq.deltas (queue, minute, dead, dead_bytes, gave_up) VALUES (p_queue, p_at_ms / 60000, 1, m.body_bytes, 1);
END $$;

CREATE FUNCTION spoolq.note_gone(p_queue integer, p_at_ms bigint, p_state text, p_number bigint, p_bytes bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO spoolq.deltas (
        queue, minute, ready, ready_bytes, scheduled, scheduled_bytes, claimed, claimed_bytes, done, done_bytes, dead, dead_bytes
    )
    SELECT
        p_queue, p_at_ms / 60000,
        CASE p_state WHEN 'ready' THEN -p_number END, CASE p_state WHEN 'ready' THEN -p_bytes END,
        CASE p_state WHEN 'scheduled' THEN -p_number END, CASE p_state WHEN 'scheduled' THEN -p_bytes END,
        CASE p_state WHEN 'claimed' THEN -p_number END, CASE p_state WHEN 'claimed' THEN -p_bytes END,
        CASE p_state WHEN 'done' THEN -p_number END, CASE p_state WHEN 'done' THEN -p_bytes END,
        CASE p_state WHEN 'dead' THEN -p_number END, CASE p_state WHEN 'dead' THEN -p_bytes END;
END $$;

-- Time passes ------------------------------------------------------------------------------------------------------------

-- At most p_limit of each kind; false when none was due. Waits for no lock.
CREATE FUNCTION spoolq.do_what_is_due(q spoolq.queues, p_at_ms bigint, p_limit integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    did boolean;
BEGIN
    IF NOT (
        EXISTS (SELECT FROM spoolq.messages WHERE queue = q.id AND state = 'claimed' AND deadline_at_ms <= p_at_ms)
        OR EXISTS (SELECT FROM spoolq.messages WHERE queue = q.id AND state = 'scheduled' AND due_at_ms <= p_at_ms)
        OR EXISTS (
            SELECT FROM spoolq.messages WHERE queue = q.id AND expires_at_ms IS NOT NULL AND state IN ('ready', 'scheduled')
                AND expires_at_ms <= p_at_ms
        )
    ) THEN
        RETURN false;
    END IF;
    -- All three, in this order: what is given back may have expired meanwhile.
    did := spoolq.reap(q, p_at_ms, p_limit);
    did := spoolq.promote(q, p_at_ms, p_limit) OR did;
    did := spoolq.expire(q, p_at_ms, p_limit) OR did;
    RETURN did;
END $$;

CREATE FUNCTION spoolq.promote(q spoolq.queues, p_at_ms bigint, p_limit integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    WITH due AS (
        SELECT id FROM spoolq.messages WHERE queue = q.id AND state = 'scheduled' AND due_at_ms <= p_at_ms
        ORDER BY due_at_ms, id LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), moved AS (
        UPDATE spoolq.messages AS m SET state = 'ready', due_at_ms = NULL, changed_at_ms = p_at_ms FROM due WHERE m.id = due.id
        RETURNING m.body_bytes
    )
    INSERT INTO spoolq.deltas (queue, minute, scheduled, scheduled_bytes, ready, ready_bytes)
    SELECT q.id, p_at_ms / 60000, -count(*), -sum(body_bytes), count(*), sum(body_bytes) FROM moved HAVING count(*) > 0;
    RETURN FOUND;
END $$;

CREATE FUNCTION spoolq.reap(q spoolq.queues, p_at_ms bigint, p_limit integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    m record;
    did boolean := false;
BEGIN
    FOR m IN
        SELECT id, grp FROM spoolq.messages WHERE queue = q.id AND state = 'claimed' AND deadline_at_ms <= p_at_ms
        ORDER BY deadline_at_ms LIMIT p_limit
    LOOP
        CONTINUE WHEN m.grp IS NOT NULL AND NOT pg_try_advisory_xact_lock(spoolq.group_key(q.id, m.grp));
        PERFORM FROM spoolq.messages WHERE id = m.id AND deadline_at_ms <= p_at_ms FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        PERFORM spoolq.end_failed(
            q, m.id, p_at_ms, 0, 'requeued', 'lease ended', '{"reason":"lease ended"}', 'lease ended', '{"reason":"lease ended"}'
        );
        IF m.grp IS NOT NULL THEN
            PERFORM spoolq.settle_group(q.id, m.grp);
        END IF;
        did := true;
    END LOOP;
    RETURN did;
END $$;

CREATE FUNCTION spoolq.expire(q spoolq.queues, p_at_ms bigint, p_limit integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    m record;
    did boolean := false;
BEGIN
    FOR m IN
        SELECT id, grp FROM spoolq.messages
        WHERE queue = q.id AND expires_at_ms IS NOT NULL AND state IN ('ready', 'scheduled') AND expires_at_ms <= p_at_ms
        ORDER BY expires_at_ms LIMIT p_limit
    LOOP
        CONTINUE WHEN m.grp IS NOT NULL AND NOT pg_try_advisory_xact_lock(spoolq.group_key(q.id, m.grp));
        PERFORM FROM spoolq.messages WHERE id = m.id AND state IN ('ready', 'scheduled') FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        IF q.expired_delete THEN
            PERFORM spoolq.erase(q.id, ARRAY[m.id], p_at_ms);
        ELSE
            PERFORM spoolq.die(q.id, m.id, p_at_ms, 'expired', 'expired', '{"reason":"expired"}');
        END IF;
        IF m.grp IS NOT NULL THEN
            PERFORM spoolq.settle_group(q.id, m.grp);
        END IF;
        did := true;
    END LOOP;
    RETURN did;
END $$;

-- By hand ----------------------------------------------------------------------------------------------------------------

CREATE FUNCTION spoolq.run_now(p_queue integer, p_id uuid) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    at_ms bigint := spoolq.now_ms();
    m record;
BEGIN
    SELECT state, body_bytes INTO m FROM spoolq.messages
        WHERE id = p_id AND queue = p_queue AND state IN ('ready', 'scheduled') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF m.state = 'scheduled' THEN
        UPDATE spoolq.messages SET state = 'ready', due_at_ms = NULL, changed_at_ms = at_ms WHERE id = p_id;
        INSERT INTO spoolq.deltas (queue, minute, scheduled, scheduled_bytes, ready, ready_bytes)
            VALUES (p_queue, at_ms / 60000, -1, -m.body_bytes, 1, m.body_bytes);
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION spoolq.set_priority(p_queue integer, p_id uuid, p_priority smallint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE spoolq.messages SET priority = p_priority WHERE id = p_id AND queue = p_queue AND state IN ('ready', 'scheduled');
    RETURN FOUND;
END $$;

-- Dead or done ones as if new, in order, up to the first that is not; how many.
CREATE FUNCTION spoolq.start_again(p_queue integer, p_ids uuid[], p_state text, p_outcome text) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    at_ms bigint := spoolq.now_ms();
    groups text[] := spoolq.lock_groups_of(p_queue, p_ids);
    message_id uuid;
    size bigint;
    number integer := 0;
BEGIN
    FOREACH message_id IN ARRAY p_ids LOOP
        UPDATE spoolq.messages SET
            history = concat_ws(E'\n', history, spoolq.history_line(attempts, p_outcome, at_ms, NULL, changed_at_ms, '{}')),
            state = 'ready', attempts = 0, reason = '', expires_at_ms = NULL, due_at_ms = NULL, nonce = NULL,
            changed_at_ms = at_ms, held = grp IS NOT NULL
        WHERE id = message_id AND queue = p_queue AND state = p_state RETURNING body_bytes INTO size;
        EXIT WHEN NOT FOUND;
        PERFORM spoolq.note_gone(p_queue, at_ms, p_state, 1, size);
        INSERT INTO spoolq.deltas (queue, minute, ready, ready_bytes) VALUES (p_queue, at_ms / 60000, 1, size);
        number := number + 1;
    END LOOP;
    PERFORM spoolq.settle_groups(p_queue, groups);
    RETURN number;
END $$;

-- Deletes, in order, up to the first that is in none of these states; how many.
CREATE FUNCTION spoolq.remove(p_queue integer, p_ids uuid[], p_states text[]) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    at_ms bigint := spoolq.now_ms();
    groups text[] := spoolq.lock_groups_of(p_queue, p_ids);
    message_id uuid;
    number integer := 0;
BEGIN
    FOREACH message_id IN ARRAY p_ids LOOP
        PERFORM FROM spoolq.messages WHERE id = message_id AND queue = p_queue AND state = ANY (p_states) FOR UPDATE;
        EXIT WHEN NOT FOUND;
        PERFORM spoolq.erase(p_queue, ARRAY[message_id], at_ms);
        number := number + 1;
    END LOOP;
    PERFORM spoolq.settle_groups(p_queue, groups);
    RETURN number;
END $$;

-- Deletes up to p_limit messages in a state; how many.
CREATE FUNCTION spoolq.purge(p_queue integer, p_state text, p_limit integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    at_ms bigint := spoolq.now_ms();
    ids uuid[] := ARRAY(SELECT id FROM spoolq.messages WHERE queue = p_queue AND state = p_state LIMIT p_limit);
    groups text[] := spoolq.lock_groups_of(p_queue, ids);
    number integer;
BEGIN
    ids := ARRAY(SELECT id FROM spoolq.messages WHERE id = ANY (ids) AND state = p_state ORDER BY id FOR UPDATE);
    number := spoolq.erase(p_queue, ids, at_ms);
    PERFORM spoolq.settle_groups(p_queue, groups);
    RETURN number;
END $$;

-- Locked rows go, with their chunks; receipts of the last ten minutes are remembered. Groups are the caller's business.
CREATE FUNCTION spoolq.erase(p_queue integer, p_ids uuid[], p_at_ms bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    number integer;
BEGIN
    WITH gone AS (
        DELETE FROM spoolq.messages WHERE id = ANY (p_ids) RETURNING id, state, nonce, changed_at_ms, body_bytes, chunks
    ), parts AS (
        DELETE FROM spoolq.chunks WHERE id IN (SELECT id FROM gone WHERE gone.chunks > 0)
    ), remembered AS (
        INSERT INTO spoolq.receipts (queue, until_at_ms, nonce, ids)
        SELECT p_queue, max(changed_at_ms) + 600000, nonce, array_agg(id) FROM gone
        WHERE state = 'done' AND nonce IS NOT NULL AND changed_at_ms + 600000 > p_at_ms GROUP BY nonce
    ), noted AS (
        SELECT spoolq.note_gone(p_queue, p_at_ms, state, count(*), sum(body_bytes)::bigint), count(*) AS gone FROM gone GROUP BY state
    )
    SELECT coalesce(sum(gone), 0) INTO number FROM noted;
    RETURN number;
END $$;

-- Keeping ----------------------------------------------------------------------------------------------------------------

-- What retention says, at most p_limit of each; p_dry_run counts, all of it.
CREATE FUNCTION spoolq.clean(
    p_queue integer, p_limit integer, p_dry_run boolean, OUT done bigint, OUT done_bytes bigint, OUT dead bigint,
    OUT dead_bytes bigint
) LANGUAGE plpgsql AS $$
DECLARE
    q spoolq.queues := spoolq.queue_row(p_queue);
    at_ms bigint := spoolq.now_ms();
    ids uuid[];
BEGIN
    IF p_dry_run THEN
        SELECT count(*), coalesce(sum(body_bytes), 0) INTO done, done_bytes FROM spoolq.messages
            WHERE queue = p_queue AND state = 'done' AND changed_at_ms <= at_ms - q.done_ms;
        SELECT count(*), coalesce(sum(body_bytes), 0) INTO dead, dead_bytes FROM spoolq.messages
            WHERE queue = p_queue AND state = 'dead' AND q.dead_ms > 0 AND changed_at_ms <= at_ms - q.dead_ms;
        RETURN;
    END IF;
    ids := ARRAY(
        SELECT id FROM spoolq.messages WHERE queue = p_queue AND state = 'done' AND changed_at_ms <= at_ms - q.done_ms
        ORDER BY changed_at_ms, id LIMIT p_limit FOR UPDATE SKIP LOCKED
    );
    SELECT count(*), coalesce(sum(body_bytes), 0) INTO done, done_bytes FROM spoolq.messages WHERE id = ANY (ids);
    PERFORM spoolq.erase(p_queue, ids, at_ms);
    ids := '{}';
    IF q.dead_ms > 0 THEN
        ids := ARRAY(
            SELECT id FROM spoolq.messages WHERE queue = p_queue AND state = 'dead' AND changed_at_ms <= at_ms - q.dead_ms
            ORDER BY changed_at_ms, id LIMIT p_limit FOR UPDATE SKIP LOCKED
        );
    END IF;
    SELECT count(*), coalesce(sum(body_bytes), 0) INTO dead, dead_bytes FROM spoolq.messages WHERE id = ANY (ids);
    PERFORM spoolq.erase(p_queue, ids, at_ms);
END $$;

-- All that is due, at most p_limit of each; true when more may be left.
CREATE FUNCTION spoolq.maintain(p_queue integer, p_limit integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    q spoolq.queues := spoolq.queue_row(p_queue);
    at_ms bigint := spoolq.now_ms();
    did boolean := spoolq.do_what_is_due(q, at_ms, p_limit);
    cleaned record;
BEGIN
    cleaned := spoolq.clean(p_queue, p_limit, false);
    did := did OR cleaned.done = p_limit OR cleaned.dead = p_limit;
    -- Many at once: as many may come in a second, and not everybody who looks after the queue does so more often.
    DELETE FROM spoolq.keys WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM spoolq.keys WHERE queue = p_queue AND until_at_ms <= at_ms LIMIT 10000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM spoolq.receipts WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM spoolq.receipts WHERE queue = p_queue AND until_at_ms <= at_ms LIMIT 10000 FOR UPDATE SKIP LOCKED
    ));
    DELETE FROM spoolq.minutes WHERE queue = p_queue AND minute < at_ms / 60000 - 8 * 24 * 60;
    PERFORM spoolq.drop_upload(id) FROM (
        SELECT id FROM spoolq.uploads WHERE begun_at_ms < at_ms - 36 * 3600000::bigint LIMIT 1 FOR UPDATE SKIP LOCKED
    ) AS stale;
    -- What a deletion that was cut short has left, and a caller's transaction that ended after it.
    PERFORM spoolq.sweep(gone.queue, p_limit) FROM (
        SELECT c.queue FROM spoolq.counts AS c WHERE NOT EXISTS (SELECT FROM spoolq.queues WHERE id = c.queue) UNION
        SELECT d.queue FROM spoolq.deltas AS d WHERE NOT EXISTS (SELECT FROM spoolq.queues WHERE id = d.queue) LIMIT 1
    ) AS gone;
    RETURN spoolq.fold(p_queue, 10000) OR did;
END $$;

-- Deltas into counts and minutes; true when more are left. One at a time: a second caller leaves it to the first.
CREATE FUNCTION spoolq.fold(p_queue integer, p_limit integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    folded spoolq.deltas[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('spoolq fold/' || p_queue, 0)) THEN
        RETURN false;
    END IF;
    WITH gone AS (
        DELETE FROM spoolq.deltas AS d
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM spoolq.deltas WHERE queue = p_queue LIMIT p_limit)) RETURNING d AS delta
    )
    SELECT array_agg(delta) INTO folded FROM gone;
    IF folded IS NULL THEN
        RETURN false;
    END IF;
    INSERT INTO spoolq.minutes AS m SELECT * FROM spoolq.by_minute(p_queue, folded)
        ON CONFLICT (queue, minute) DO UPDATE SET
            enqueued = m.enqueued + excluded.enqueued, acknowledged = m.acknowledged + excluded.acknowledged,
            failed = m.failed + excluded.failed, gave_up = m.gave_up + excluded.gave_up, ready = m.ready + excluded.ready,
            scheduled = m.scheduled + excluded.scheduled, claimed = m.claimed + excluded.claimed,
            wait_ms = m.wait_ms + excluded.wait_ms, process_ms = m.process_ms + excluded.process_ms;
    UPDATE spoolq.counts AS c SET
        ready = c.ready + s.ready,
        ready_bytes = c.ready_bytes + s.ready_bytes,
        scheduled = c.scheduled + s.scheduled,
        scheduled_bytes = c.scheduled_bytes + s.scheduled_bytes,
        claimed = c.claimed + s.claimed,
        claimed_bytes = c.claimed_bytes + s.claimed_bytes,
        done = c.done + s.done,
        done_bytes = c.done_bytes + s.done_bytes,
        dead = c.dead + s.dead,
        dead_bytes = c.dead_bytes + s.dead_bytes,
        enqueued = c.enqueued + s.enqueued,
        acknowledged = c.acknowledged + s.acknowledged,
        failed = c.failed + s.failed,
        gave_up = c.gave_up + s.gave_up,
        wait_ms = c.wait_ms + s.wait_ms,
        process_ms = c.process_ms + s.process_ms,
        waits = spoolq.both(c.waits, s.waits), takes = spoolq.both(c.takes, s.takes)
    FROM spoolq.added(p_queue, folded) AS s WHERE c.queue = p_queue;
    RETURN cardinality(folded) = p_limit;
END $$;

CREATE FUNCTION spoolq.added(p_queue integer, p_deltas spoolq.deltas[]) RETURNS spoolq.counts LANGUAGE plpgsql STABLE AS $$
DECLARE
    sums spoolq.counts;
BEGIN
    SELECT
        p_queue,
        coalesce(sum(ready), 0)::bigint,
        coalesce(sum(ready_bytes), 0)::bigint,
        coalesce(sum(scheduled), 0)::bigint,
        coalesce(sum(scheduled_bytes), 0)::bigint,
        coalesce(sum(claimed), 0)::bigint,
        coalesce(sum(claimed_bytes), 0)::bigint,
        coalesce(sum(done), 0)::bigint,
        coalesce(sum(done_bytes), 0)::bigint,
        coalesce(sum(dead), 0)::bigint,
        coalesce(sum(dead_bytes), 0)::bigint,
        coalesce(sum(enqueued), 0)::bigint,
        coalesce(sum(acknowledged), 0)::bigint,
        coalesce(sum(failed), 0)::bigint,
        coalesce(sum(gave_up), 0)::bigint,
        coalesce(sum(wait_ms), 0)::bigint,
        coalesce(sum(process_ms), 0)::bigint,
        spoolq.tally(ARRAY(SELECT unnest(d.waits) FROM unnest(p_deltas) AS d)),
        spoolq.tally(ARRAY(SELECT unnest(d.takes) FROM unnest(p_deltas) AS d))
    INTO sums
    FROM unnest(p_deltas);
    RETURN sums;
END $$;

CREATE FUNCTION spoolq.tally(p_buckets smallint[]) RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (
        SELECT array_agg(coalesce(number, 0) ORDER BY bucket)
        FROM generate_series(0, 11) AS bucket
        LEFT JOIN (SELECT each, count(*) AS number FROM unnest(p_buckets) AS each GROUP BY each) AS found ON each = bucket
    );
END $$;

CREATE FUNCTION spoolq.both(p_one bigint[], p_other bigint[]) RETURNS bigint[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (
        SELECT array_agg(a + b ORDER BY place) FROM unnest(p_one, p_other) WITH ORDINALITY AS pair (a, b, place)
    );
END $$;

CREATE FUNCTION spoolq.by_minute(p_queue integer, p_deltas spoolq.deltas[]) RETURNS SETOF spoolq.minutes
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT
        p_queue, minute, coalesce(sum(enqueued), 0), coalesce(sum(acknowledged), 0), coalesce(sum(failed), 0),
        coalesce(sum(gave_up), 0), coalesce(sum(ready), 0), coalesce(sum(scheduled), 0), coalesce(sum(claimed), 0),
        coalesce(sum(wait_ms), 0)::bigint, coalesce(sum(process_ms), 0)::bigint
    FROM unnest(p_deltas) GROUP BY minute;
END $$;

-- Looking ----------------------------------------------------------------------------------------------------------------

-- What is there, and what ever happened: the counts and what was not added to them yet.
CREATE FUNCTION spoolq.present(p_queue integer) RETURNS spoolq.counts LANGUAGE plpgsql STABLE AS $$
DECLARE
    there spoolq.counts;
BEGIN
    SELECT
        p_queue,
        c.ready + s.ready,
        c.ready_bytes + s.ready_bytes,
        c.scheduled + s.scheduled,
        c.scheduled_bytes + s.scheduled_bytes,
        c.claimed + s.claimed,
        c.claimed_bytes + s.claimed_bytes,
        c.done + s.done,
        c.done_bytes + s.done_bytes,
        c.dead + s.dead,
        c.dead_bytes + s.dead_bytes,
        c.enqueued + s.enqueued,
        c.acknowledged + s.acknowledged,
        c.failed + s.failed,
        c.gave_up + s.gave_up,
        c.wait_ms + s.wait_ms,
        c.process_ms + s.process_ms,
        spoolq.both(c.waits, s.waits), spoolq.both(c.takes, s.takes)
    INTO there
    FROM spoolq.counts AS c,
        spoolq.added(p_queue, ARRAY(SELECT d FROM spoolq.deltas AS d WHERE d.queue = p_queue)) AS s
    WHERE c.queue = p_queue;
    RETURN there;
END $$;

-- Since when the ready message that waits longest is ready; by ten looks at the head of the line, twenty long: those before
-- it may have come back, and are ready since a moment ago.
CREATE FUNCTION spoolq.oldest_ready_at_ms(p_queue integer) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT min(first.changed_at_ms) FROM generate_series(0, 9) AS p (priority), LATERAL (
            SELECT m.changed_at_ms FROM spoolq.messages AS m
            WHERE m.queue = p_queue AND m.state = 'ready' AND NOT m.held AND m.priority BETWEEN p.priority AND p.priority
            ORDER BY m.priority DESC, m.id LIMIT 20
        ) AS first
    );
END $$;

-- Minute by minute, each with what was there at its end: the present less all that came later.
CREATE FUNCTION spoolq.history(p_queue integer, p_minute integer) RETURNS TABLE (
    minute integer, enqueued bigint, acknowledged bigint, failed bigint, gave_up bigint, ready bigint, scheduled bigint,
    claimed bigint, wait_ms bigint, process_ms bigint
) LANGUAGE sql STABLE AS $$
    WITH steps AS (
        SELECT
            m.minute, sum(m.enqueued)::bigint AS enqueued, sum(m.acknowledged)::bigint AS acknowledged,
            sum(m.failed)::bigint AS failed, sum(m.gave_up)::bigint AS gave_up, sum(m.ready) AS ready,
            sum(m.scheduled) AS scheduled, sum(m.claimed) AS claimed, sum(m.wait_ms)::bigint AS wait_ms,
            sum(m.process_ms)::bigint AS process_ms
        FROM (
            SELECT * FROM spoolq.minutes AS kept WHERE kept.queue = p_queue AND kept.minute >= p_minute
            UNION ALL
            SELECT * FROM spoolq.by_minute(p_queue, ARRAY(SELECT d FROM spoolq.deltas AS d WHERE d.queue = p_queue))
        ) AS m GROUP BY m.minute
    )
    SELECT
        s.minute, s.enqueued, s.acknowledged, s.failed, s.gave_up,
        (there.ready - coalesce(sum(s.ready) OVER later, 0))::bigint,
        (there.scheduled - coalesce(sum(s.scheduled) OVER later, 0))::bigint,
        (there.claimed - coalesce(sum(s.claimed) OVER later, 0))::bigint, s.wait_ms, s.process_ms
    FROM steps AS s, spoolq.present(p_queue) AS there
    WHERE s.minute >= p_minute
    WINDOW later AS (ORDER BY s.minute ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
    ORDER BY s.minute
$$;

-- How long until something is due by time alone; NULL for nothing.
CREATE FUNCTION spoolq.next_due_ms(p_queue integer) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        SELECT least(
            (SELECT min(due_at_ms) FROM spoolq.messages WHERE queue = p_queue AND state = 'scheduled'),
            (SELECT min(deadline_at_ms) FROM spoolq.messages WHERE queue = p_queue AND state = 'claimed')
        ) - spoolq.now_ms()
    );
END $$;

-- Somebody waits: enqueueing notifies for the next p_for_ms. One update for many who wait.
CREATE FUNCTION spoolq.await(p_queue integer, p_for_ms bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE spoolq.queues SET awaited_until_ms = spoolq.now_ms() + p_for_ms
    WHERE id = p_queue AND awaited_until_ms < spoolq.now_ms() + p_for_ms / 2;
END $$;

-- Counts against rows, heads against groups, chunks against bodies, all of one instant.
CREATE FUNCTION spoolq.wrong(p_queue integer) RETURNS TABLE (kind text, what text, message_id text) LANGUAGE sql STABLE AS $$
    WITH counted AS (
        SELECT s.state, coalesce(f.number, 0) AS number, coalesce(f.size, 0) AS size
        FROM unnest('{ready,scheduled,claimed,done,dead}'::text[]) AS s (state)
        LEFT JOIN (
            SELECT state, count(*) AS number, sum(body_bytes) AS size FROM spoolq.messages WHERE queue = p_queue GROUP BY state
        ) AS f USING (state)
    ), known AS (
        SELECT s.state, s.number, s.size FROM spoolq.present(p_queue) AS p, LATERAL (VALUES
            ('ready', p.ready, p.ready_bytes), ('scheduled', p.scheduled, p.scheduled_bytes),
            ('claimed', p.claimed, p.claimed_bytes), ('done', p.done, p.done_bytes), ('dead', p.dead, p.dead_bytes)
        ) AS s (state, number, size)
    )
    SELECT
        'counts', 'counted as ' || state || ': ' || known.number || ' messages, ' || known.size || ' bytes; there are '
        || counted.number || ', ' || counted.size, ''
    FROM counted JOIN known USING (state) WHERE counted.number <> known.number OR counted.size <> known.size
    UNION ALL
    SELECT 'group', 'the group ' || grp || ' has ' || count(*) FILTER (WHERE NOT held) || ' heads instead of one', ''
    FROM spoolq.messages WHERE queue = p_queue AND grp IS NOT NULL AND state IN ('ready', 'scheduled', 'claimed')
    GROUP BY grp HAVING count(*) FILTER (WHERE NOT held) <> 1
    UNION ALL
    SELECT 'held', 'held back by no group', id::text FROM spoolq.messages
    WHERE queue = p_queue AND held AND (grp IS NULL OR state NOT IN ('ready', 'scheduled'))
    UNION ALL
    SELECT 'body', found.number || ' of ' || m.chunks || ' parts of its body are there', m.id::text
    FROM spoolq.messages AS m, LATERAL (SELECT count(*) AS number FROM spoolq.chunks AS c WHERE c.id = m.id) AS found
    WHERE m.queue = p_queue AND m.chunks > 0 AND found.number <> m.chunks
$$;

-- Counts and heads of groups anew, from the rows; how many messages there are. Holds everybody off meanwhile.
CREATE FUNCTION spoolq.rebuild(p_queue integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    number bigint;
BEGIN
    LOCK TABLE spoolq.messages, spoolq.deltas IN SHARE ROW EXCLUSIVE MODE;
    WHILE spoolq.fold(p_queue, 10000) LOOP
    END LOOP;
    UPDATE spoolq.counts AS c SET
        (ready, ready_bytes, scheduled, scheduled_bytes, claimed, claimed_bytes, done, done_bytes, dead, dead_bytes) = (
            SELECT
                count(*) FILTER (WHERE state = 'ready'), coalesce(sum(body_bytes) FILTER (WHERE state = 'ready'), 0),
                count(*) FILTER (WHERE state = 'scheduled'), coalesce(sum(body_bytes) FILTER (WHERE state = 'scheduled'), 0),
                count(*) FILTER (WHERE state = 'claimed'), coalesce(sum(body_bytes) FILTER (WHERE state = 'claimed'), 0),
                count(*) FILTER (WHERE state = 'done'), coalesce(sum(body_bytes) FILTER (WHERE state = 'done'), 0),
                count(*) FILTER (WHERE state = 'dead'), coalesce(sum(body_bytes) FILTER (WHERE state = 'dead'), 0)
            FROM spoolq.messages WHERE queue = p_queue
        )
    WHERE queue = p_queue;
    UPDATE spoolq.messages AS m SET held = NOT heads.is_head
    FROM (
        SELECT id, row_number() OVER (PARTITION BY grp ORDER BY state <> 'claimed', id) = 1 AS is_head
        FROM spoolq.messages WHERE queue = p_queue AND grp IS NOT NULL AND state IN ('ready', 'scheduled', 'claimed')
    ) AS heads
    WHERE m.id = heads.id AND m.held = heads.is_head;
    UPDATE spoolq.messages SET held = false
        WHERE queue = p_queue AND held AND (grp IS NULL OR state NOT IN ('ready', 'scheduled'));
    SELECT count(*) INTO number FROM spoolq.messages WHERE queue = p_queue;
    RETURN number;
END $$;

-- Queues -----------------------------------------------------------------------------------------------------------------

-- False where there is one of this name.
CREATE FUNCTION spoolq.create_queue(p_name text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    made integer;
BEGIN
    INSERT INTO spoolq.queues (name) VALUES (p_name) ON CONFLICT (name) DO NOTHING RETURNING id INTO made;
    IF made IS NULL THEN
        RETURN false;
    END IF;
    INSERT INTO spoolq.counts (queue) VALUES (made);
    RETURN true;
END $$;

-- The queue is gone, what is in it not yet: `sweep` deletes that.
CREATE FUNCTION spoolq.delete_queue(p_name text, OUT id integer, OUT messages bigint) LANGUAGE plpgsql AS $$
BEGIN
    SELECT q.id, p.ready + p.scheduled + p.claimed + p.done + p.dead INTO id, messages
        FROM spoolq.queues AS q, spoolq.present(q.id) AS p WHERE q.name = p_name;
    DELETE FROM spoolq.queues AS q WHERE q.id = delete_queue.id;
END $$;

-- Deletes what a deleted queue has left, at most p_limit messages at once; true when more is left.
CREATE FUNCTION spoolq.sweep(p_queue integer, p_limit integer) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[] := ARRAY(SELECT m.id FROM spoolq.messages AS m WHERE m.queue = p_queue LIMIT p_limit);
BEGIN
    DELETE FROM spoolq.chunks WHERE id IN (SELECT m.id FROM spoolq.messages AS m WHERE m.id = ANY (ids) AND m.chunks > 0);
    DELETE FROM spoolq.messages WHERE id = ANY (ids);
    IF cardinality(ids) > 0 THEN
        RETURN true;
    END IF;
    DELETE FROM spoolq.keys WHERE queue = p_queue;
    DELETE FROM spoolq.receipts WHERE queue = p_queue;
    DELETE FROM spoolq.deltas WHERE queue = p_queue;
    DELETE FROM spoolq.counts WHERE queue = p_queue;
    DELETE FROM spoolq.minutes WHERE queue = p_queue;
    RETURN false;
END $$;
