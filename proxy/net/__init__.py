"""Every socket of the proxy.

- listener.py, port.py     accept, and talk while somebody logs in
- client_login.py          the client proves who it is; link_login.py: we do, to a server
- frontend.py              from an accepted socket to a session; cancel requests; a new configuration
- session.py, link.py      the relay: a client's half and a server's half
- route.py                 one database name: target, gate, sessions, counters
- takeover.py              twins: links to the destination with the sessions' state
- janitor.py               time-outs
- tls.py, cancel.py, credentials.py, scram_keys.py   parts of the above
"""
