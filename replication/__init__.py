"""SQL on both databases, through asyncpg. Knows nothing of the proxy, the gates or the run.

Words
- endpoint         where and as whom a control connection logs in (`endpoint.py`)
- control session  one such connection, with a deadline on every call (`session.py`)
- control schema   the schema `pgcutover` on both sides: identity, decision, runs, objects, marker
- decision         the arbiter of a run, one row on its destination (`decision.py`)
- stream           publication, slot and subscription of one direction (`streams.py`)
- registry         what the move made on this side, written before it is made (`registry.py`)
- fit              whether a schema takes the rows of another one (`schema_fit.py`)
- base, keys, rest what of a schema is made before the copy, and what after it (`schema_copy.py`)
- marker           a replicated row; where it has arrived, all earlier commits have (`marker` table)

Rules
- asyncpg is imported here and nowhere else in the daemon.
- Must not import proxy, cutover, admin or daemon.
- Unknown is a value of its own (None, or ControlUnavailable), never zero and never a yes.
"""
