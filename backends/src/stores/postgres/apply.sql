-- One wave of guarded changes: every event at most once. One statement, so one round trip and one commit.
WITH input AS (
    SELECT *
    FROM unnest(
        $1::text[], $2::text[], $3::bigint[], $4::boolean[], $5::boolean[], $6::boolean[], $7::text[], $8::bytea[],
        $9::integer[], $10::bigint[], $11::boolean[], $12::text[], $13::bigint[], $14::text[]
    ) WITH ORDINALITY AS u (
        app_id, key, fence, from_received, from_planned, starts, target, plan,
        attempt, due_ms, hold, class, code, error, ord
    )
),
-- Locks in key order, so that two waves wait for each other instead of deadlocking. A row that had to be waited for is
-- read again: the guard sees what the other transaction left.
locked AS MATERIALIZED (
    SELECT i.*, e.state, coalesce(e.plan = i.plan, true) AS same_plan
    FROM input i
    JOIN events e ON e.app_id = i.app_id AND e.key = i.key
    WHERE e.fence = i.fence
    ORDER BY e.app_id, e.key
    FOR NO KEY UPDATE OF e
),
-- What a send of ours was answered with gets no plan: nobody else's message has that id.
fresh AS (
    SELECT * FROM locked l
    WHERE ((l.state = 'received' AND l.from_received) OR (l.state = 'planned' AND l.from_planned))
      AND (
        l.target IS DISTINCT FROM 'planned'
        OR (SELECT true FROM actions a WHERE a.message_id COLLATE "C" = l.key LIMIT 1) IS NULL
      )
),
planned AS (
    INSERT INTO actions (app_id, key, idx, kind, target, uuid, first_try_at, tries)
    SELECT f.app_id, f.key, a.idx, a.kind, a.target, a.uuid, CASE WHEN a.tried THEN now() END, a.tried::integer
    FROM unnest($15::bigint[], $16::integer[], $17::text[], $18::text[], $19::text[], $20::boolean[])
        AS a (ord, idx, kind, target, uuid, tried)
    JOIN fresh f ON f.ord = a.ord
),
-- An outcome without a state is a try that begins. Only planned actions move: what is sent stays sent.
acted AS (
    UPDATE actions a
    SET state = coalesce(o.state, a.state),
        uuid = coalesce(o.uuid, a.uuid),
        sender = coalesce(o.sender, a.sender),
        first_try_at = CASE
            WHEN o.uuid IS NOT NULL THEN now()
            WHEN o.tries > 0 THEN coalesce(a.first_try_at, now())
            ELSE a.first_try_at
        END,
        tries = a.tries + o.tries,
        refused = o.refused,
        message_id = coalesce(o.message_id, a.message_id),
        code = CASE WHEN o.state IS NULL THEN a.code ELSE o.code END,
        sent_at = CASE WHEN o.state = 'sent' THEN now() END
    FROM unnest(
        $21::bigint[], $22::integer[], $23::text[], $24::text[], $25::bigint[], $26::boolean[], $27::integer[], $28::text[],
        $29::text[]
    ) AS o (ord, idx, state, message_id, code, refused, tries, uuid, sender)
    JOIN fresh f ON f.ord = o.ord
    -- `+ 0`: of a new table the planner believes that all actions of one index are few, and would read them all for each.
    WHERE a.app_id = f.app_id AND a.key = f.key AND a.idx + 0 = o.idx AND a.state = 'planned'
    RETURNING f.ord, a.tries
),
changed AS (
    UPDATE events e
    SET state = coalesce(f.target, e.state),
        plan = coalesce(f.plan, e.plan),
        -- A plan or a failure in good order ends the suspicion that the event kills its worker.
        handler_starts = CASE
            WHEN f.starts THEN e.handler_starts + 1
            WHEN f.target = 'planned' OR (coalesce(f.target, 'waiting') = 'waiting' AND f.class IS NOT NULL) THEN 0
            ELSE e.handler_starts
        END,
        attempt = coalesce(f.attempt, e.attempt),
        due_at = now() + f.due_ms * interval '1 millisecond',
        hold = coalesce(f.hold, e.hold),
        -- What goes behind its lane, due at once, is covered by a row that already waits there: one that stands before it, or
        -- is due. No join, and ordered like the index: see `begin.rs`.
        covered = CASE
            WHEN f.hold AND f.due_ms = 0 THEN (
                SELECT true FROM events w
                WHERE w.bot = e.bot AND w.chat = e.chat AND w.state = 'waiting' AND w.priority <= e.priority
                    AND w.covered IS NOT TRUE AND (w.due_at <= now() OR (w.hold AND w.position + 0 < e.position))
                ORDER BY w.priority, w.position LIMIT 1
            ) IS NOT NULL
            ELSE false
        END,
        last_class = coalesce(f.class, e.last_class),
        last_code = CASE WHEN f.class IS NULL THEN e.last_code ELSE f.code END,
        last_error = coalesce(f.error, e.last_error),
        finished_at = CASE WHEN f.target IN ('done', 'dead') THEN now() END
    FROM fresh f
    WHERE e.app_id = f.app_id AND e.key = f.key AND (f.target IS NOT NULL OR f.starts OR f.attempt IS NOT NULL)
    RETURNING f.ord, e.*
),
buried AS (
    INSERT INTO dead_letters (
        app_id, key, bot, chat, class, code, error, attempts, replay_gen, created_at, died_at
    )
    SELECT
        c.app_id, c.key, c.bot, c.chat, c.last_class, c.last_code, c.last_error,
        greatest(
            c.attempt + c.handler_starts,
            (SELECT max(a.tries) FROM acted a WHERE a.ord = c.ord),
            (SELECT max(a.tries) FROM actions a WHERE a.app_id = c.app_id AND a.key = c.key)
        ),
        c.replay_gen, c.created_at, now()
    FROM changed c
    WHERE c.state = 'dead'
)
-- A row that has the target state under our own fence has it from this very change, sent before: its answer was lost. Only
-- `planned` outlives a change of owner, so there the plan itself has to be ours.
SELECT ord FROM fresh
UNION ALL
SELECT ord FROM locked WHERE state = target AND same_plan
