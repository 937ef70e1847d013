-- On the old server only: something to move.
SET ROLE alice;
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    placed_at timestamptz NOT NULL DEFAULT now(),
    amount numeric(10, 2) NOT NULL
);
CREATE INDEX orders_placed_at ON orders (placed_at);
INSERT INTO orders (amount) SELECT (n % 1000) / 10.0 FROM generate_series(1, 10000) AS n;
