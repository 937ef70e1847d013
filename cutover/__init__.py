"""The decision path: whether a move may be made, the run that makes it, and what a restart finds.

Words
- pair      the two databases of a move, by the names that the configuration gives them; the name `source` always
            leads to the side that serves, since a run exchanges what the two names stand for
- run       one attempt to CUTOVER or REVERT; both are the same code, in opposite directions
- commit point   one compare-and-set on the destination; before it every failure leads back, after it forward
- finish    what is left to do after the commit point: repeated until done, by the run or by a restart

Where things are
- api.py        what console and command line ask (`MoveService`), and what they get back
- recovery.py   PURE: what both sides say -> who serves
- readiness.py  PURE: facts -> go, or the reasons why not
- machine.py    PURE: the phases of a run and what a failure means in each
- pair.py       the control connections of a pair and what is known about it
- run.py        the run: steps, deadlines, the way back
- finish.py     the way forward after the commit point
- service.py    MoveService for all pairs, recovery at start, heartbeats
- failpoints.py where tests stop or kill the daemon

Rules: reaches the proxy through proxy.control and the databases through replication; never admin or daemon.
"""
