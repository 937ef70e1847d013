CREATE SCHEMA app;
CREATE TYPE app.state AS ENUM ('new', 'done');
CREATE DOMAIN app.email AS text CHECK (VALUE LIKE '%@%') NOT NULL;
CREATE TABLE app.customer (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mail app.email, state app.state DEFAULT 'new', tags text[]);
CREATE TABLE app.bill (id int PRIMARY KEY, customer bigint NOT NULL REFERENCES app.customer ON DELETE CASCADE, total numeric(10,2) CHECK (total >= 0));
CREATE INDEX bill_customer ON app.bill (customer) WHERE total > 0;
COMMENT ON TABLE app.bill IS 'what a customer owes';
COMMENT ON COLUMN app.bill.total IS 'in euro';
CREATE VIEW app.owing AS SELECT c.mail, sum(b.total) AS total FROM app.customer c JOIN app.bill b ON b.customer = c.id GROUP BY 1;
CREATE SEQUENCE app.counter;
CREATE FUNCTION app.twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';
CREATE PUBLICATION pub FOR TABLE app.bill;
CREATE STATISTICS app.stat ON id, customer FROM app.bill;
SET search_path = app, public;
\d
\d+
\d app.*
\d+ app.bill
\d customer
\d owing
\d counter
\d bill_customer
\d nothing
\dt app.*
\dt+ nothing
\dv
\ds
\di
\dT app.*
\dT+ app.state
\dD app.*
\df app.*
\df+ app.twice
\sf app.twice
\sv app.owing
\dn
\dn+
\dp app.*
\z app.bill
\du postgres
\dg postgres
\dx
\dL
\dO nothing
\dC bool
\dd
\do +
\da sum
\dA
\db
\dc nothing
\dE
\dF english
\dm
\dP
\dRp
\dRp+ pub
\dRs
\dX
\drds
\dconfig work_mem
\ddp
\dy
\l nothing
\sf nothing
\d a.b.c.d
\h SELECT
\?
