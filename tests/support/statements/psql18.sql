\set VERBOSITY verbose
SELECT $1::int + $2::int AS sum \parse adder
\bind_named adder 1 2 \g
\bind_named adder 1 \g
\bind_named nothing 1 \g
\close_prepared adder
\bind_named adder 1 2 \g
SELECT nope \parse bad
\close_prepared nothing
\startpipeline
SELECT 1 \bind \sendpipeline
SELECT 2 \bind \sendpipeline
\syncpipeline
SELECT 3 \bind \sendpipeline
\flushrequest
\getresults
\endpipeline
\startpipeline
SELECT 1 \bind \sendpipeline
SELECT 1/0 \bind \sendpipeline
SELECT 3 \bind \sendpipeline
\syncpipeline
SELECT 4 \bind \sendpipeline
\endpipeline
\startpipeline
BEGIN \bind \sendpipeline
CREATE TABLE pipe (i int) \bind \sendpipeline
INSERT INTO pipe VALUES ($1) \bind 1 \sendpipeline
INSERT INTO pipe VALUES ($1) \bind 2 \sendpipeline
COMMIT \bind \sendpipeline
TABLE pipe \bind \sendpipeline
\endpipeline
\startpipeline
SELECT g FROM generate_series(1, 100) g \bind \sendpipeline
\flushrequest
\getresults 1
SELECT $1 \parse again
\bind_named again 'x' \sendpipeline
\close_prepared again
\endpipeline
\startpipeline
COPY pipe FROM STDIN \bind \sendpipeline
\endpipeline
