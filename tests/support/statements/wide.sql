SELECT string_agg('c' || g || ' int', ',') AS columns FROM generate_series(1, 1600) g \gset
CREATE TABLE wide (:columns);
INSERT INTO wide DEFAULT VALUES;
\pset format unaligned
TABLE wide;
SELECT repeat('0123456789', 300000) AS three_megabytes;
SELECT g, repeat(chr(97 + g % 26), (g * 7919) % 20000) FROM generate_series(1, 200) g;
SELECT array_agg(g) FROM generate_series(1, 50000) g;
SELECT string_agg(md5(g::text), '') FROM generate_series(1, 20000) g;
SELECT md5(g::text) FROM generate_series(1, 20000) g;
SELECT jsonb_agg(jsonb_build_object('n', g, 't', repeat('j', 50))) FROM generate_series(1, 3000) g;
CREATE TABLE toolong (:columns, one_more int);
SELECT 'select 1' || repeat(', 1', 1663) AS many \gset
:many;
SELECT 'select 1' || repeat(', 1', 1664) AS too_many \gset
:too_many;
DO $$ BEGIN RAISE NOTICE '%', repeat('long notice ', 10000); END $$;
DO $$ BEGIN RAISE EXCEPTION '%', repeat('long error ', 10000); END $$;
\copy wide to 'wide.out'
\! md5sum < wide.out
