"""The data path: clients on one side, links to PostgreSQL servers on the other, a gate between them.

Words
- client    a connection from an application to us
- link      a connection from us to a PostgreSQL server; in session mode each client has its own
- twin      a link to the destination, opened and prepared before a swap for one client
- exchange  what client and server have asked and answered so far; `Exchange.quiet` is the only test for
            "this session can be held, asked or moved now" (`session/exchange.py`)
- gate      per database: open, draining, closed (`routing/gate.py`)
- hold      a client's next request waits at the gate

Where things are
- wire/     bytes and their meaning, no state, no I/O
- session/  the state of one session, no I/O
- routing/  the gates and what leads where
- net/      every socket
- control   the door through which console and run reach all this
- views     plain values shown to them; errors: what clients are told

Rules: nothing here imports replication, cutover, admin or daemon. `wire` and `session` import no asyncio,
socket, ssl or time. Per message the hot path builds no objects.
"""
