"""The demo: two real servers, a workload that knows every write, a cutover and a revert, and the verdict.

Words: *embedded* is a PostgreSQL server made for the occasion; the *ledger* is the set of tables the
workload writes to, one row per transaction with an idempotency key; a *record* is what one client knows
about its own transactions; the *verdict* compares records with the database.

Rules: `binaries`, `processes`, `embedded` know servers only; `ledger` knows the tables and the check;
`workload` and `clients` make traffic and know no proxy; `run` puts them together and talks to the proxy
as an operator would, through the admin database. Tests and benchmark use the same parts.
"""
