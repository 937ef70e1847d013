\set VERBOSITY verbose
CREATE TABLE c (id int PRIMARY KEY, t text, n numeric);
COPY c FROM STDIN;
1	one	1.5
2	two	\N
3	three	-1
\.
COPY c FROM STDIN;
4	four	1
5	five	not a number
6	six	1
\.
SELECT * FROM c;
COPY c FROM STDIN;
7	too	few	columns	here
\.
COPY c FROM STDIN;
8
\.
COPY c FROM STDIN;
1	duplicate	1
\.
COPY c FROM STDIN;
\.
COPY c (id, t) FROM STDIN WITH (FORMAT csv, NULL '-', DELIMITER ';', QUOTE '''');
10;'quoted; text';extra
\.
COPY c (id, t) FROM STDIN WITH (FORMAT csv, NULL '-', DELIMITER ';', QUOTE '''');
10;'quoted; text'
11;-
\.
COPY c (id, t) FROM STDIN WITH (FORMAT csv);
12,"unterminated
\.
COPY c FROM STDIN WHERE id > 21;
20	a	1
21	b	1
22	c	1
\.
COPY nothing FROM STDIN;
1
\.
COPY c (nothing) FROM STDIN;
1
\.
BEGIN;
COPY c FROM STDIN;
30	thirty	3
\.
SAVEPOINT s;
COPY c FROM STDIN;
31	x	x
\.
SELECT 1;
ROLLBACK TO s;
COPY c TO STDOUT;
COMMIT;
BEGIN;
SELECT 1/0;
COPY c TO STDOUT;
COPY c FROM STDIN;
40	x	1
\.
ROLLBACK;
COPY (SELECT id, t FROM c ORDER BY id) TO STDOUT;
COPY (SELECT g, repeat('y', 50) FROM generate_series(1, 1000) g) TO STDOUT;
COPY (SELECT 1/(3 - g) FROM generate_series(1, 5) g) TO STDOUT;
COPY (SELECT g / (5000 - g), repeat('z', 100) FROM generate_series(1, 9000) g) TO STDOUT;
COPY c TO STDOUT (FORMAT csv, HEADER, DELIMITER '|', NULL 'nil');
COPY c TO STDOUT (FORMAT binary);
COPY c TO STDOUT (FORMAT nonsense);
COPY c TO '/no/such/directory/file';
COPY c FROM '/no/such/file';
COPY c FROM PROGRAM 'exit 3';
COPY (SELECT 'via program') TO PROGRAM 'cat > /dev/null';
\copy c to 'c.out'
\copy (select id from c order by id) to 'ids.csv' csv header
\! cat c.out ids.csv
DELETE FROM c;
\copy c from 'c.out'
\copy c from 'c.out'
\copy c from 'missing.file'
\copy c (id) from 'ids.csv' csv header
SELECT count(*) FROM c;
\copy c to stdout
\copy c from stdin
50	fifty	5
51	fifty-one	5
\.
\copy c to program 'sort -r'
\copy c to 'c.bin' binary
TRUNCATE c;
\copy c from 'c.bin' binary
SELECT * FROM c ORDER BY id;
\copy c from 'c.out' binary
\copy nothing to 'x'
CREATE TABLE big (id int, t text);
INSERT INTO big SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 5000) g;
\copy big to 'big.out'
TRUNCATE big;
\copy big from 'big.out'
SELECT count(*), sum(length(t)) FROM big;
ALTER TABLE big ADD PRIMARY KEY (id);
\copy big from 'big.out'
CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 9000 THEN RAISE EXCEPTION 'vetoed %', NEW.id; END IF; RAISE NOTICE 'row %', NEW.id; RETURN NEW; END $$;
CREATE TRIGGER veto BEFORE INSERT ON big FOR EACH ROW EXECUTE FUNCTION veto();
COPY big FROM STDIN;
8000	a
9000	b
9001	c
\.
COPY big FROM STDIN;
8001	a
8002	b
\.
COPY c FROM STDIN (FREEZE);
\.
