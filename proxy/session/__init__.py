"""The state of one session, without I/O: what is under way, what the session has set, how to carry it over.

- exchange.py   which answers are owed; the predicate `quiet`
- footprint.py  whether a message may have changed session state that a swap must carry over
- capture.py    the question put to an idle backend, and its answer as a SessionState
- replay.py     the messages that give a fresh link the same state
"""
