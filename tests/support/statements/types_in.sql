\set VERBOSITY verbose
CREATE TABLE every (
    id int PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric(12,4), m money,
    c char(6), v varchar(8), t text, y bytea, d date, ti time(3), tz timetz, ts timestamp, tstz timestamptz, iv interval,
    j json, jb jsonb, u uuid, ip inet, ci cidr, ma macaddr, bi bit(4), vb varbit(8), p point, bx box, ir int4range,
    nr numrange[], a int[], ta text[][], tv tsvector, x xml, g int GENERATED ALWAYS AS (i4 * 2) STORED
);
INSERT INTO every VALUES (1, 'yes', 1, 2, 3, 1.25, 2.5, 3.14159, '12.50', 'char', 'varchar', E'te\txt', '\x00ff', '2024-02-29',
    '12:34:56.7891', '12:00+02', '2024-02-29 12:00', '2024-02-29 12:00+00', '1 day', '{"k": 1}', '{"k": 1, "k": 2}',
    'a0eebc999c0b4ef8bb6d6bb9bd380a11', '10.0.0.1', '10.0.0.0/8', '08-00-2b-01-02-03', B'1010', B'101', '(1,2)', '(0,0),(1,1)',
    '[1,5)', ARRAY[numrange(1,2)], '{1,2,3}', '{{a,b},{c,d}}', 'a:1 b:2', '<x/>');
INSERT INTO every (id) VALUES (2) RETURNING *;
INSERT INTO every (id, i2) VALUES (3, 40000);
INSERT INTO every (id, v) VALUES (3, 'much too long');
INSERT INTO every (id, c) VALUES (3, 'much too long');
INSERT INTO every (id, d) VALUES (3, '2023-02-29');
INSERT INTO every (id, ts) VALUES (3, 'yesterday-ish');
INSERT INTO every (id, j) VALUES (3, '{"k": }');
INSERT INTO every (id, jb) VALUES (3, '{"k": "\u0000"}');
INSERT INTO every (id, u) VALUES (3, 'not-a-uuid');
INSERT INTO every (id, ip) VALUES (3, '10.0.0.256');
INSERT INTO every (id, ci) VALUES (3, '10.0.0.1/8');
INSERT INTO every (id, bi) VALUES (3, B'10101');
INSERT INTO every (id, a) VALUES (3, '{1,2');
INSERT INTO every (id, ir) VALUES (3, '[5,1]');
INSERT INTO every (id, y) VALUES (3, '\xabc');
INSERT INTO every (id, n) VALUES (3, 123456789.0);
INSERT INTO every (id, f4) VALUES (3, 1e40);
INSERT INTO every (id, g) VALUES (3, 1);
INSERT INTO every (id) VALUES (1);
INSERT INTO every (id) VALUES (NULL);
INSERT INTO every (id, x) VALUES (3, '<open>');
INSERT INTO every (id, iv) VALUES (3, '5 parsecs');
UPDATE every SET t = t || '!' WHERE id = 1 RETURNING id, t;
UPDATE every SET i4 = i4 / 0 WHERE id = 1;
DELETE FROM every WHERE id = 99;
MERGE INTO every e USING (VALUES (2, 'merged'), (5, 'new')) AS s(id, t) ON e.id = s.id
    WHEN MATCHED THEN UPDATE SET t = s.t WHEN NOT MATCHED THEN INSERT (id, t) VALUES (s.id, s.t);
INSERT INTO every (id, t) VALUES (5, 'again') ON CONFLICT (id) DO UPDATE SET t = excluded.t RETURNING id, t;
INSERT INTO every (id, t) VALUES (5, 'never') ON CONFLICT DO NOTHING;
SELECT * FROM every ORDER BY id;
SELECT id, t FROM every ORDER BY id FOR UPDATE SKIP LOCKED;
COPY every TO STDOUT;
COPY every TO STDOUT (FORMAT csv, HEADER, FORCE_QUOTE *);
COPY (SELECT id, t, y, ts, a, n, jb FROM every ORDER BY id) TO STDOUT (FORMAT binary);
COPY every (id, t) FROM STDIN;
10	ten
11	\N
12	back\\slash\ttab
\.
COPY every (id, t) FROM STDIN (FORMAT csv, HEADER);
id,t
20,"quoted, ""twice"""
21,
\.
SELECT id, t FROM every WHERE id >= 10 ORDER BY id;
TRUNCATE every;
DROP TABLE every;
