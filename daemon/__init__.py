"""Puts the parts together: the process, its logs and signals, and the command line.

Words
- *serve*: one daemon that carries traffic until it is told to stop.
- *verb*: a command of the console as a subcommand; it connects to a running daemon as an operator does.
- *answer*: what the console returned; only an answer that says so is a yes, and only a yes is exit status 0.
- *demo*: two servers and a workload made for the occasion (`daemon.demo`).

Rules
- Nothing below this package knows it. uvloop is used here only, asyncpg in `console_client` and `demo` only.
- prometheus_client is used in `metrics` only, starlette and uvicorn in `http` only.
- stdout is for answers, stderr for progress, problems and logs.
- Modules that only one subcommand needs are imported when it runs.
"""
