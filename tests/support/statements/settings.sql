\set VERBOSITY verbose
SHOW server_encoding;
SHOW application_name;
SET application_name = 'transparent';
SHOW application_name;
SET application_name TO DEFAULT;
SHOW application_name;
RESET application_name;
SET search_path = public, pg_catalog;
SHOW search_path;
SET SESSION search_path TO "$user", public;
SELECT current_schemas(true), current_schema;
SELECT set_config('search_path', repeat('s', 40) || ', public', false);
SELECT length(set_config('search_path', (SELECT string_agg('schema_' || g, ',') FROM generate_series(1, 1500) g), false));
SELECT length(set_config('application_name', repeat('a', 63), false));
RESET search_path;
SET my.custom = 'value';
SHOW my.custom;
SELECT current_setting('my.custom'), current_setting('my.missing', true);
SELECT current_setting('my.missing');
SET LOCAL my.custom = 'x';
SET TIME ZONE 'Europe/Vienna';
SHOW TimeZone;
SET TIME ZONE INTERVAL '-05:30' HOUR TO MINUTE;
SELECT timestamptz '2024-07-01 12:00+00';
SET TIME ZONE LOCAL;
SET DateStyle = 'SQL, DMY';
SELECT date '2024-03-04';
SET IntervalStyle = postgres_verbose;
SELECT interval '1 day 2 hours';
SET client_encoding = LATIN1;
SHOW client_encoding;
SELECT 'plain';
SELECT chr(8364);
SET client_encoding = UTF8;
SET standard_conforming_strings = off;
SET standard_conforming_strings = on;
SET ROLE pg_monitor;
SELECT current_user, session_user;
RESET ROLE;
CREATE ROLE transparency_role;
SET SESSION AUTHORIZATION transparency_role;
SELECT current_user, session_user;
SHOW is_superuser;
CREATE TABLE forbidden (i int);
SELECT * FROM pg_authid;
SET SESSION AUTHORIZATION DEFAULT;
SHOW is_superuser;
DROP ROLE transparency_role;
SET default_transaction_read_only = on;
CREATE TABLE nope (i int);
SET default_transaction_read_only = off;
SET work_mem = '4MB'; SHOW work_mem; RESET work_mem;
RESET ALL;
SHOW work_mem;
SET enable_seqscan = maybe;
SET work_mem = -5;
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE;
SHOW default_transaction_isolation;
DISCARD PLANS; DISCARD SEQUENCES; DISCARD TEMP;
DISCARD ALL;
SHOW default_transaction_isolation;
SELECT name, setting, source FROM pg_settings WHERE source IN ('client', 'session', 'override') ORDER BY name;
SELECT current_user, session_user, current_database() IS NOT NULL, pg_backend_pid() > 0;
\encoding
\encoding LATIN1
\encoding
\encoding UTF8
\encoding nonsense
\timing off
\echo :AUTOCOMMIT :DBNAME :VERSION_NAME :SERVER_VERSION_NAME
\echo :SERVER_VERSION_NUM :ENCODING :USER
