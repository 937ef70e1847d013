\set VERBOSITY verbose
SELECT $1 AS a, $2::int + 1 AS b \bind 'text' 41 \g
SELECT $1 \bind \g
SELECT $1::int \bind 'not a number' \g
SELECT 1 / $1::int \bind 0 \g
SELECT nope \bind \g
SELECT generate_series(1, $1::int) \bind 5 \g
SELECT 1 \bind 'one too many' \g
SELECT 1; \bind \g
INSERT INTO nothing VALUES ($1) \bind 1 \g
CREATE TABLE ext (i int, t text) \bind \g
INSERT INTO ext VALUES ($1, $2) \bind 1 'one' \g
INSERT INTO ext VALUES ($1, $2) RETURNING * \bind 2 'two' \g
SELECT * FROM ext \bind \gx
SELECT i, t, now() AS moment, 1.5 AS number, ARRAY[1] AS list FROM ext \gdesc
SELECT nope \gdesc
CREATE TABLE x (i int) \gdesc
SELECT \gdesc
SELECT 'CREATE TABLE made_' || g || ' (i int)' FROM generate_series(1, 3) g \gexec
SELECT 'SELECT 1/0', 'SELECT 2' \gexec
SELECT 1 AS one, 'two' AS two \gset my_
\echo :my_one :my_two
SELECT 1 AS one UNION SELECT 2 \gset
SELECT 1 WHERE false \gset
SELECT i AS row, t AS col, 'v' || i AS val FROM ext \crosstabview
SELECT 1 \g out.txt
\! cat out.txt
SELECT 2 \g | cat
SELECT 1 \gx
BEGIN \bind \g
SELECT 1/0 \bind \g
SELECT 1 \bind \g
ROLLBACK \bind \g
COPY ext TO STDOUT \bind \g
COPY ext FROM STDIN \bind \g
5	five
\.
COPY ext FROM STDIN \bind \g
6	six
seven	seven
\.
TABLE ext \bind \g
SELECT 1 \bind \g
SELECT $1::text, length($1) \bind 'ä 🐘 \\ "quoted"' \g
SELECT 'end';
