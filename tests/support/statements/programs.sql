\set VERBOSITY verbose
DO $$ BEGIN NULL; END $$;
DO $do$
DECLARE total int := 0;
BEGIN
    FOR i IN 1..10 LOOP total := total + i; END LOOP;
    RAISE NOTICE 'total %', total;
    BEGIN
        PERFORM 1/0;
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE 'caught % %', SQLSTATE, SQLERRM;
    END;
END
$do$;
CREATE FUNCTION add(a int, b int DEFAULT 10) RETURNS int LANGUAGE sql IMMUTABLE RETURN a + b;
SELECT add(1), add(1, 2), add(b => 5, a => 1);
CREATE FUNCTION outs(OUT a int, OUT b text) LANGUAGE plpgsql AS $$ BEGIN a := 1; b := 'two'; END $$;
SELECT outs(), * FROM outs();
CREATE FUNCTION rows_of() RETURNS TABLE (n int, t text) LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT 1, 'a'; RETURN QUERY SELECT 2, 'b'; END $$;
SELECT * FROM rows_of();
CREATE FUNCTION poly(anyelement) RETURNS anyarray LANGUAGE sql AS 'SELECT ARRAY[$1]';
SELECT poly(1), poly('x'::text);
CREATE FUNCTION variadic_sum(VARIADIC int[]) RETURNS bigint LANGUAGE sql AS 'SELECT sum(x) FROM unnest($1) x';
SELECT variadic_sum(1,2,3), variadic_sum(VARIADIC ARRAY[4,5]);
CREATE PROCEDURE inout(INOUT a int) LANGUAGE plpgsql AS $$ BEGIN a := a + 1; END $$;
CALL inout(5);
CREATE TABLE audit (op text, old_row text, new_row text);
CREATE TABLE audited (id int, t text);
CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (TG_OP, OLD::text, NEW::text); RETURN NULL; END $$;
CREATE TRIGGER log_it AFTER INSERT OR UPDATE OR DELETE ON audited FOR EACH ROW EXECUTE FUNCTION log_it();
INSERT INTO audited VALUES (1, 'a'), (2, 'b'); UPDATE audited SET t = 'c' WHERE id = 1; DELETE FROM audited WHERE id = 2;
TABLE audit;
CREATE RULE no_delete AS ON DELETE TO audited DO INSTEAD NOTHING;
DELETE FROM audited;
CREATE VIEW av AS SELECT id FROM audited WITH CHECK OPTION;
CREATE VIEW positive AS SELECT * FROM audited WHERE id > 0 WITH CHECK OPTION;
INSERT INTO positive VALUES (-1, 'x');
WITH moved AS (UPDATE audited SET id = id + 100 RETURNING *) SELECT * FROM moved;
WITH RECURSIVE f(a, b) AS (VALUES (0, 1) UNION ALL SELECT b, a + b FROM f WHERE b < 100) SELECT a FROM f;
SELECT g, sum(g) OVER w, lag(g) OVER w, rank() OVER (ORDER BY g % 3) FROM generate_series(1, 6) g WINDOW w AS (ORDER BY g);
SELECT g % 2 AS odd, count(*), array_agg(g ORDER BY g DESC), string_agg(g::text, ',' ORDER BY g) FILTER (WHERE g > 2) FROM generate_series(1, 7) g GROUP BY ROLLUP (g % 2) ORDER BY 1;
SELECT * FROM json_to_recordset('[{"a":1,"b":"x"},{"a":2}]') AS x(a int, b text);
SELECT * FROM jsonb_each('{"a":1,"b":[2]}');
SELECT * FROM unnest(ARRAY[1,2], ARRAY['x','y','z']) WITH ORDINALITY;
SELECT * FROM xmltable('/r/i' PASSING '<r><i>1</i><i>2</i></r>' COLUMNS n int PATH '.');
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY g) FROM generate_series(1, 4) g;
CREATE MATERIALIZED VIEW mv AS SELECT 1 AS one;
REFRESH MATERIALIZED VIEW mv;
TABLE mv;
CREATE TABLE parts (k int, v text) PARTITION BY LIST (k);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
INSERT INTO parts VALUES (1, 'in'), (1, 'in too');
INSERT INTO parts VALUES (2, 'nowhere');
SELECT k, v FROM parts;
CREATE TABLE identity (id int GENERATED ALWAYS AS IDENTITY, t text);
INSERT INTO identity (t) VALUES ('a'), ('b') RETURNING id;
INSERT INTO identity VALUES (7, 'c');
INSERT INTO identity OVERRIDING SYSTEM VALUE VALUES (7, 'c') RETURNING *;
ALTER TABLE identity ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON identity USING (id > 1);
TABLE identity;
EXPLAIN (COSTS OFF) SELECT * FROM identity WHERE id = 1 ORDER BY t;
EXPLAIN (COSTS OFF, VERBOSE, FORMAT json) SELECT count(*) FROM identity;
EXPLAIN (COSTS OFF, FORMAT yaml) SELECT 1;
EXPLAIN (COSTS OFF, ANALYZE, TIMING OFF, SUMMARY OFF, BUFFERS OFF) SELECT * FROM generate_series(1, 3);
EXPLAIN (COSTS OFF) INSERT INTO identity (t) SELECT 'x' FROM generate_series(1, 3);
EXPLAIN (COSTS OFF) DECLARE c CURSOR FOR SELECT 1;
EXPLAIN (NONSENSE) SELECT 1;
EXPLAIN SELECT nope;
