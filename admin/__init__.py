"""The admin console: a virtual database that operators reach with psql or any PostgreSQL driver.

Words
- console     one logged-in admin session, served over the PostgreSQL protocol (`console.py`)
- statement   one parsed command with its arguments, ready to run (`statement.py`)
- command     what SHOW HELP lists: its words, its syntax, what it does, how it is parsed (`commands/`)
- verb        a command of a move (CUTOVER, REPLICATE, ...): it goes on when its console goes away
- services    everything a command may touch: the move, the proxy, the configuration (`services.py`)

Where things are
- lexer, parser        text -> statements
- requests, parameters client messages -> values
- protocol, session    the conversation and its state: messages in; bytes out, or "run this statement"
- result, settings     column types with text and binary encodings; what SET and SHOW of drivers see
- console, inbox       the only files that read and write the connection
- background, cancel, averages  verbs that outlive their console, cancel keys, SHOW STATS averages

Rules
- lexer, parser, requests, parameters, protocol, session, result and settings are pure: no asyncio, no clock.
- Every command declares its columns before it runs, so that Describe can be answered without running it.
- An error answers the statement and never ends the session; only a broken protocol does.
- A verb is never broken off half-way because somebody pressed ^C or lost a connection.
- No secret is shown, and no text of a statement is logged.
"""
