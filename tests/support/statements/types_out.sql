\set VERBOSITY verbose
SELECT true, false, NULL::bool, 't'::bool AND NULL;
SELECT 1::int2, -32768::int2, 2147483647, -9223372036854775808::int8;
SELECT 1.5::float4, 'NaN'::float8, '-Infinity'::float8, 1e-300::float8, 0.1::float8 + 0.2;
SELECT 123456789012345678901234567890.123456789::numeric, 'NaN'::numeric, 'Infinity'::numeric, 0.000::numeric(10,3);
SELECT 12.34::money, '-1.5'::money;
SELECT 'a'::"char", 'abc'::char(5), 'abc'::varchar(10), 'abc'::text, 'abc'::name, ''::text;
SELECT E'tab\tnewline\nquote''backslash\\', U&'\0441\043B\043E\043D', '日本語 🐘';
SELECT '\xdeadbeef'::bytea, E'\\000\\377'::bytea, ''::bytea;
SET bytea_output = escape;
SELECT '\xdeadbeef'::bytea, '\x0061'::bytea;
RESET bytea_output;
SELECT date '2024-02-29', date 'infinity', date '0044-03-15 BC', date '5874897-12-31';
SELECT time '23:59:59.999999', time '24:00:00', timetz '12:00:00+05:30';
SELECT timestamp '2024-02-29 12:34:56.789', timestamp 'infinity', timestamp '4713-01-01 00:00:00 BC';
SET TimeZone = 'Asia/Kathmandu';
SELECT timestamptz '2024-02-29 12:34:56.789+00', timestamptz '-infinity';
SET DateStyle = 'German, DMY';
SELECT timestamptz '2024-02-29 12:34:56.789+00', date '2024-02-29';
RESET DateStyle;
RESET TimeZone;
SELECT interval '1 year 2 mons -3 days 04:05:06.789', interval '0', interval '-1 day';
SET IntervalStyle = 'iso_8601';
SELECT interval '1 year 2 mons -3 days 04:05:06.789';
SET IntervalStyle = 'sql_standard';
SELECT interval '1 year 2 mons', interval '3 days 04:05:06';
RESET IntervalStyle;
SELECT '{"a": [1, 2, {"b": null}], "c": "\u00e4"}'::json, '{"b":1,"a":[true,false,null,1.50]}'::jsonb;
SELECT jsonb_path_query('{"a":[1,2,3]}', '$.a[*] ? (@ > 1)'), '$.a[*] ? (@ > 1)'::jsonpath;
SELECT '<a x="1"><b/></a>'::xml;
SELECT 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid;
SELECT '192.168.0.1/24'::inet, '10.0.0.0/8'::cidr, '08:00:2b:01:02:03'::macaddr, '08:00:2b:01:02:03:04:05'::macaddr8, '::1'::inet;
SELECT B'101'::bit(3), B'10101'::varbit, X'1F'::bit(8);
SELECT point(1,2), line '{1,2,3}', lseg '[(0,0),(1,1)]', box '(1,1),(0,0)', path '[(0,0),(1,1),(2,0)]', polygon '((0,0),(1,1),(2,0))', circle '<(0,0),2>';
SELECT 'fat & (rat | !cat)'::tsquery, 'a fat cat'::tsvector, to_tsvector('english', 'The quick brown foxes jumped');
SELECT int4range(1,10), int4range(5,5), numrange(1.5,NULL,'[]'), tsrange('2024-01-01','2024-02-01'), daterange('2024-01-01',NULL), int8multirange(int8range(1,3), int8range(7,9));
SELECT ARRAY[1,2,NULL], ARRAY[[1,2],[3,4]], '{}'::int[], '[0:2]={a,b,c}'::text[], ARRAY['a"b','c,d','',NULL,'NULL'];
SELECT ROW(1,'a',NULL,ROW(2,'b,c')), (ROW(1,'x')::record), ROW();
SELECT 'pg_class'::regclass, 'int4'::regtype, 'now'::regproc, 'abs(integer)'::regprocedure, '+(integer,integer)'::regoperator, 'pg_catalog'::regnamespace, 'postgres'::regrole, 'english'::regconfig;
SELECT 12::oid, '(3,4)'::tid, '7'::xid, '7'::xid8, '0/1A2B3C'::pg_lsn, '1:3:2'::pg_snapshot;
SELECT '{1,2}'::int2vector, '1 2 3'::oidvector;
SELECT NULL, NULL::text, 'unknown literal', $$dollar$$, $tag$with $$ inside$tag$;
SELECT void FROM (SELECT pg_catalog.set_config('x.y', 'z', false)) AS s(void);
SELECT repeat('x', 10000) AS long_value;
SELECT length(repeat('é', 100000)), md5(repeat('é', 100000));
SELECT generate_series(1, 500) AS n, repeat('row ', 5) AS t;
SELECT FROM generate_series(1, 3);
SELECT;
SELECT 1 AS a, 2 AS a, 3 AS "A b", 4 AS "ä";
SELECT * FROM (VALUES (1,'one'),(2,'two'),(3,NULL)) AS t(n, word);
\x on
SELECT 1 AS first_column, E'two\nlines' AS second, NULL AS third;
\x off
\pset format csv
SELECT 1 AS a, 'x,"y' AS b;
\pset format unaligned
SELECT 1 AS a, 'x|y' AS b, NULL AS c;
\pset format html
SELECT 1 AS a, '<b>' AS b;
\pset format aligned
\pset null '(null)'
SELECT NULL AS n;
CREATE TYPE colour AS ENUM ('red', 'green', 'blue');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
SELECT 'red'::colour, ARRAY['red','blue']::colour[], ROW(1,'x')::pair, ARRAY[ROW(1,'x')::pair], 7::positive;
SELECT 'purple'::colour;
SELECT (-7)::positive;
SELECT enum_range(NULL::colour), enum_first(NULL::colour);
TABLE pg_catalog.pg_am;
