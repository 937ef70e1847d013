\set VERBOSITY verbose
CREATE TABLE enc (t text);
INSERT INTO enc VALUES ('äöü'), ('日本'), ('🐘');
SELECT t, length(t), octet_length(t) FROM enc;
SET client_encoding = 'LATIN1';
SELECT t FROM enc WHERE length(t) = 3;
SELECT t FROM enc;
RESET client_encoding;
SET client_encoding = 'SJIS';
SELECT t FROM enc WHERE t = convert_from('\x93fa967b', 'SJIS');
SET client_encoding = 'SQL_ASCII';
SELECT t FROM enc;
SET client_encoding = 'EUC_JP';
COPY (SELECT t FROM enc WHERE length(t) = 2) TO STDOUT;
SET client_encoding = 'UTF8';
COPY enc FROM STDIN (ENCODING 'LATIN1');
plain
\.
SELECT convert_to('ä', 'LATIN1'), convert_from('\xe4', 'LATIN1'), convert('\xe4', 'LATIN1', 'UTF8');
SELECT to_ascii('x', 'LATIN1'), normalize('ä', NFD) = 'ä', 'ß' ILIKE 'SS', upper('äß') COLLATE "C";
SELECT U&'d\0061t\+000061', E'\u0041\U0001F418';
SELECT E'\xff';
SELECT quote_literal(E'a\\b''c'), quote_ident('Mixed Name'), format('%I %L %s', 'a b', 'x''y', NULL);
