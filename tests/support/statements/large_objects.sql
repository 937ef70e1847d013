\set VERBOSITY verbose
\set QUIET on
\! printf 'large object contents\n' > lo.in
\lo_import lo.in 'a comment'
\set lo :LASTOID
\lo_export :lo lo.out
\! cmp lo.in lo.out && cat lo.out
SELECT convert_from(lo_get(:lo), 'UTF8');
\lo_unlink :lo
SELECT lo_create(424242);
SELECT lo_create(424242);
SELECT lo_put(424242, 0, 'hello large world');
SELECT convert_from(lo_get(424242, 6, 5), 'UTF8');
BEGIN;
SELECT lo_open(424242, x'60000'::int);
SELECT lo_lseek(0, 6, 0), lo_tell(0);
SELECT convert_from(loread(0, 5), 'UTF8');
SELECT lowrite(0, ' and wide');
SELECT lo_truncate(0, 12);
SELECT lo_lseek64(0, 0, 2), lo_tell64(0);
SELECT lo_close(0);
SELECT loread(0, 1);
ROLLBACK;
SELECT convert_from(lo_get(424242), 'UTF8');
SELECT lo_from_bytea(424243, decode(repeat('00ff', 100000), 'hex'));
\lo_export 424243 lo.big
\! wc -c < lo.big; md5sum < lo.big
\lo_import lo.big
SELECT length(lo_get(:LASTOID));
\lo_unlink :LASTOID
SELECT md5(lo_get(424243));
COMMENT ON LARGE OBJECT 424243 IS 'big one';
\lo_list
\dl
SELECT lo_unlink(424242), lo_unlink(424243);
SELECT lo_unlink(424243);
SELECT lo_get(424243);
\lo_import no.such.file
\lo_unlink 424243
BEGIN;
\lo_import lo.in
SELECT 1/0;
\lo_import lo.in
ROLLBACK;
