-- The control schema, the same on both sides. Only pgcutover.marker is ever replicated.
--
-- Every function that changes something names the run it belongs to and does nothing for another one, so a
-- statement that was stuck on the network and arrives after its run was given up changes nothing.

CREATE SCHEMA IF NOT EXISTS pgcutover;
REVOKE ALL ON SCHEMA pgcutover FROM PUBLIC;

-- Who this database is and whether it serves. The uuid is tied to the cluster and the database oid: a clone
-- carries the row along, and is told apart by the other two.
CREATE TABLE IF NOT EXISTS pgcutover.identity (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    schema_version integer NOT NULL,
    uuid uuid NOT NULL,
    system_identifier text NOT NULL,
    database_oid oid NOT NULL,
    state text NOT NULL CHECK (state IN ('serving', 'draining', 'moved', 'replica')),
    epoch bigint NOT NULL,
    run_id uuid,                 -- the open run that takes this database as its source
    successor uuid,              -- where a moved database's traffic went
    move_origin uuid,            -- where the move began; CUTOVER leaves it, REVERT returns to it
    move_target uuid,
    completed boolean NOT NULL DEFAULT false,
    fenced boolean NOT NULL DEFAULT false,
    read_only_before text,       -- the database's own default_transaction_read_only before the fence
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The arbiter of a run: one row on its destination (docs/CUTOVER.md).
CREATE TABLE IF NOT EXISTS pgcutover.decision (
    run_id uuid PRIMARY KEY,
    epoch bigint NOT NULL,
    outcome text NOT NULL DEFAULT 'undecided' CHECK (outcome IN ('undecided', 'committed', 'aborted')),
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_at timestamptz
);

-- Past and open runs, written on both sides: what was intended (enough to undo or finish it) and its report.
CREATE TABLE IF NOT EXISTS pgcutover.run (
    run_id uuid PRIMARY KEY,
    kind text NOT NULL,
    pair text NOT NULL,
    epoch bigint NOT NULL,
    source_uuid uuid NOT NULL,
    destination_uuid uuid NOT NULL,
    intent jsonb NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    outcome text CHECK (outcome IN ('committed', 'aborted')),
    report jsonb
);

-- What the move made on this side, so that RESET and COMPLETE remove exactly that.
CREATE TABLE IF NOT EXISTS pgcutover.object (
    kind text NOT NULL,
    name text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}',
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, name)
);

CREATE TABLE IF NOT EXISTS pgcutover.node (
    node text PRIMARY KEY,
    version text NOT NULL,
    config_hash text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Each database writes only rows that carry its own uuid, so the two directions cannot collide.
CREATE TABLE IF NOT EXISTS pgcutover.marker (
    writer uuid NOT NULL,
    kind text NOT NULL,
    token bigint NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (writer, kind)
);

CREATE OR REPLACE FUNCTION pgcutover.write_marker(p_kind text, p_token bigint) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO pgcutover.marker AS m (writer, kind, token)
    SELECT uuid, p_kind, p_token FROM pgcutover.identity
    ON CONFLICT (writer, kind) DO UPDATE SET token = excluded.token, written_at = clock_timestamp()
$$;

-- Take this database as the source of a run. Refuses while another run is open on it.
CREATE OR REPLACE FUNCTION pgcutover.open_run(p_run uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pgcutover.identity SET run_id = p_run, changed_at = clock_timestamp()
    WHERE run_id IS NULL AND state = 'serving';
    RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION pgcutover.set_read_only(p_on boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    before text;
BEGIN
    IF p_on THEN
        SELECT pg_catalog.split_part(setting, '=', 2) INTO before
        FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS setting
        WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
          AND s.setrole = 0 AND setting LIKE 'default_transaction_read_only=%';
        UPDATE pgcutover.identity SET fenced = true, read_only_before = before WHERE NOT fenced;
        EXECUTE pg_catalog.format(
            'ALTER DATABASE %I SET default_transaction_read_only = on', pg_catalog.current_database());
    ELSE
        UPDATE pgcutover.identity SET fenced = false WHERE fenced RETURNING read_only_before INTO before;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        IF before IS NULL THEN
            EXECUTE pg_catalog.format(
                'ALTER DATABASE %I RESET default_transaction_read_only', pg_catalog.current_database());
        ELSE
            EXECUTE pg_catalog.format(
                'ALTER DATABASE %I SET default_transaction_read_only = %L', pg_catalog.current_database(), before);
        END IF;
    END IF;
END $$;

-- Client backends of this database that are neither the caller nor in the list.
CREATE OR REPLACE FUNCTION pgcutover.strangers(p_keep integer[])
RETURNS TABLE (pid integer, usename text, application_name text, client_addr text)
LANGUAGE sql AS $$
    SELECT a.pid, a.usename::text, a.application_name, a.client_addr::text
    FROM pg_catalog.pg_stat_activity a
    WHERE a.datname = pg_catalog.current_database() AND a.backend_type = 'client backend'
      AND a.pid <> pg_catalog.pg_backend_pid() AND a.pid <> ALL (p_keep)
$$;

-- The fence, first half: the decision record and the read-only default, committed before anybody is terminated,
-- so that nobody who is comes back as a writer. Links that are open already are not touched by it.
CREATE OR REPLACE FUNCTION pgcutover.raise_fence(p_run uuid, p_read_only boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pgcutover.identity SET state = 'draining', changed_at = pg_catalog.clock_timestamp()
    WHERE run_id = p_run AND state = 'serving';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'run % is not open on this database', p_run USING ERRCODE = '55000';
    END IF;
    IF p_read_only THEN
        PERFORM pgcutover.set_read_only(true);
    END IF;
END $$;

-- The fence, second half, when all our links are quiet: strangers go, then the marker is written. A function's
-- statements see each others' effects and every later state of the server's activity, and its one commit flushes.
--   p_keep   backends that may stay: our links and our control sessions
--   p_quiet  our links, which must be idle by now
--   p_dry    look only; run once before the pause, so that nothing is compiled or planned inside it
-- The answer: terminated, remaining, busy (links that are not idle), prepared (transactions left prepared).
-- The marker is written only where remaining, busy and prepared are all empty.
CREATE OR REPLACE FUNCTION pgcutover.still(
    p_run uuid, p_terminate boolean, p_keep integer[], p_quiet integer[], p_marker bigint, p_wait_ms integer,
    p_dry boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gone jsonb := '[]';
    left_over jsonb := '[]';
    busy jsonb;
    prepared jsonb;
    until timestamptz := pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => p_wait_ms / 1000.0);
BEGIN
    PERFORM 1 FROM pgcutover.identity WHERE run_id = p_run AND state = 'draining';
    IF NOT FOUND AND NOT p_dry THEN
        RAISE EXCEPTION 'run % was given up', p_run USING ERRCODE = '55000';
    END IF;
    IF p_terminate THEN
        LOOP
            SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(s)), '[]') INTO left_over
            FROM pgcutover.strangers(p_keep) s;
            EXIT WHEN p_dry OR left_over = '[]';
            IF gone = '[]' THEN
                gone := left_over;
            END IF;
            EXIT WHEN pg_catalog.clock_timestamp() >= until;
            PERFORM pg_catalog.pg_terminate_backend(s.pid) FROM pgcutover.strangers(p_keep) s;
            PERFORM pg_catalog.pg_sleep(0.001);
            PERFORM pg_catalog.pg_stat_clear_snapshot();
        END LOOP;
    END IF;
    -- "disabled" (track_activities off) says nothing, so only a state that says "not idle" counts here.
    SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('pid', a.pid, 'state', a.state)), '[]')
    INTO busy FROM pg_catalog.pg_stat_activity a
    WHERE a.pid = ANY (p_quiet)
      AND a.state IN ('active', 'idle in transaction', 'idle in transaction (aborted)', 'fastpath function call');
    SELECT coalesce(pg_catalog.jsonb_agg(gid), '[]') INTO prepared
    FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database();
    IF p_dry THEN
        PERFORM pgcutover.write_marker('dry', p_marker);
    ELSIF left_over = '[]' AND busy = '[]' AND prepared = '[]' THEN
        PERFORM pgcutover.write_marker('drain', p_marker);
    END IF;
    RETURN pg_catalog.jsonb_build_object(
        'terminated', gone, 'remaining', left_over, 'busy', busy, 'prepared', prepared);
END $$;

-- Wait on the other side until the marker has arrived: everything committed before it has been applied.
CREATE OR REPLACE FUNCTION pgcutover.await_marker(p_writer uuid, p_kind text, p_token bigint, p_wait_ms integer)
RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    until timestamptz := pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => p_wait_ms / 1000.0);
BEGIN
    LOOP
        PERFORM 1 FROM pgcutover.marker WHERE writer = p_writer AND kind = p_kind AND token = p_token;
        IF FOUND THEN
            RETURN true;
        END IF;
        IF pg_catalog.clock_timestamp() >= until THEN
            RETURN false;
        END IF;
        PERFORM pg_catalog.pg_sleep(0.001);
    END LOOP;
END $$;

-- The same inside the pause, with the last check in the same round trip: what the subscription's own counters and
-- table states say at the moment the marker has arrived.
CREATE OR REPLACE FUNCTION pgcutover.arrived(
    p_writer uuid, p_token bigint, p_wait_ms integer, p_subscription text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    seen boolean;
    not_ready bigint;
    counters jsonb := '{}';
BEGIN
    seen := pgcutover.await_marker(p_writer, 'drain', p_token, p_wait_ms);
    SELECT count(*) INTO not_ready
    FROM pg_catalog.pg_subscription_rel r JOIN pg_catalog.pg_subscription s ON s.oid = r.srsubid
    WHERE s.subname = p_subscription AND r.srsubstate <> 'r'
      AND s.subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database());
    IF pg_catalog.current_setting('server_version_num')::integer >= 150000 THEN
        EXECUTE 'SELECT pg_catalog.to_jsonb(x) FROM pg_catalog.pg_stat_subscription_stats x WHERE subname = $1'
        INTO counters USING p_subscription;
    END IF;
    RETURN pg_catalog.jsonb_build_object('seen', seen, 'not_ready', not_ready, 'counters', coalesce(counters, '{}'));
END $$;

-- A sequence is only ever moved forward, in the direction of its increment; one that cycles is copied as it is.
CREATE OR REPLACE FUNCTION pgcutover.advance_sequence(p_sequence oid, p_value bigint, p_called boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    step bigint;
    wraps boolean;
    here bigint;
    here_called boolean;
BEGIN
    SELECT seqincrement, seqcycle INTO STRICT step, wraps FROM pg_catalog.pg_sequence WHERE seqrelid = p_sequence;
    EXECUTE pg_catalog.format('SELECT last_value, is_called FROM %s', p_sequence::pg_catalog.regclass)
    INTO STRICT here, here_called;
    IF here = p_value AND here_called = p_called THEN
        RETURN false;
    END IF;
    IF NOT wraps AND (
        (step > 0 AND here > p_value) OR (step < 0 AND here < p_value)
        OR (here = p_value AND here_called)) THEN
        RETURN false;
    END IF;
    PERFORM pg_catalog.setval(p_sequence::pg_catalog.regclass, p_value, p_called);
    RETURN true;
END $$;

-- THE COMMIT POINT, on the destination. One transaction: the decision, the sequences that moved since they
-- were last set, this database's state, and the end of its own fence where a run comes back to it.
CREATE OR REPLACE FUNCTION pgcutover.commit_run(
    p_run uuid, p_sequences oid[], p_values bigint[], p_called boolean[]) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    new_epoch bigint;
    verdict text;
BEGIN
    UPDATE pgcutover.decision SET outcome = 'committed', decided_at = pg_catalog.clock_timestamp()
    WHERE run_id = p_run AND outcome = 'undecided' RETURNING epoch INTO new_epoch;
    IF NOT FOUND THEN
        SELECT outcome INTO verdict FROM pgcutover.decision WHERE run_id = p_run;
        RETURN coalesce(verdict, 'aborted');
    END IF;
    PERFORM pgcutover.advance_sequence(s.id, s.value, s.called)
    FROM ROWS FROM (pg_catalog.unnest(p_sequences), pg_catalog.unnest(p_values), pg_catalog.unnest(p_called))
        AS s (id, value, called);
    UPDATE pgcutover.identity
    SET state = 'serving', epoch = new_epoch, successor = NULL, run_id = NULL,
        changed_at = pg_catalog.clock_timestamp();
    PERFORM pgcutover.set_read_only(false);
    RETURN 'committed';
END $$;

-- What a leader that gives up, and whoever recovers, calls on the destination: the answer is the outcome.
-- The update waits for a commit that is under way; the outcome is read afterwards, with a new snapshot.
-- It waits for a moment only: a commit may hang for long (a standby that does not answer), whoever asks asks again,
-- and the backends of askers that went away would pile up behind it.
CREATE OR REPLACE FUNCTION pgcutover.abort_run(p_run uuid) RETURNS text
LANGUAGE plpgsql SET lock_timeout = '1500ms' AS $$
DECLARE
    verdict text;
BEGIN
    INSERT INTO pgcutover.decision AS d (run_id, epoch, outcome, decided_at)
    VALUES (p_run, 0, 'aborted', pg_catalog.clock_timestamp())
    ON CONFLICT (run_id) DO UPDATE SET outcome = 'aborted', decided_at = pg_catalog.clock_timestamp()
    WHERE d.outcome = 'undecided';
    SELECT outcome INTO STRICT verdict FROM pgcutover.decision WHERE run_id = p_run;
    RETURN verdict;
END $$;

-- The source after an aborted run: it serves again and its fence is gone.
CREATE OR REPLACE FUNCTION pgcutover.release_source(p_run uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pgcutover.identity SET state = 'serving', run_id = NULL, changed_at = pg_catalog.clock_timestamp()
    WHERE run_id = p_run AND state IN ('serving', 'draining');
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM pgcutover.set_read_only(false);
    RETURN true;
END $$;

-- The source after a committed run: it has moved, and says where to. The fence stays.
CREATE OR REPLACE FUNCTION pgcutover.retire_source(p_run uuid, p_successor uuid, p_epoch bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pgcutover.identity
    SET state = 'moved', successor = p_successor, epoch = p_epoch, run_id = NULL,
        changed_at = pg_catalog.clock_timestamp()
    WHERE run_id = p_run AND state = 'draining';
    RETURN FOUND;
END $$;

-- cutover_fence = "triggers": one statement trigger per table calls this. The apply worker runs with
-- session_replication_role = replica, for which ordinary triggers do not fire.
CREATE OR REPLACE FUNCTION pgcutover.refuse_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF (SELECT state FROM pgcutover.identity) <> 'serving' THEN
        RAISE EXCEPTION 'cannot execute % in a read-only transaction', TG_OP
            USING ERRCODE = '25006', HINT = 'This database has moved; connect through pgcutover.';
    END IF;
    RETURN NULL;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgcutover FROM PUBLIC;
