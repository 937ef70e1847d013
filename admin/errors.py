"""What a console answers when a statement does not go through. Each type owns its SQLSTATE.

SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from proxy.errors import ProxyError


class ConsoleError(ProxyError):
    """Ends the statement; the session goes on."""

    severity = "ERROR"


class Internal(ConsoleError):
    """A fault of ours; the log has the particulars."""

    sqlstate = "XX000"
    log_level = "error"

    def __init__(self) -> None:
        super().__init__("internal error in the console", hint="The daemon's log has the particulars.")


# What was said


class SyntaxProblem(ConsoleError):
    sqlstate = "42601"


class InvalidCommand(SyntaxProblem):
    """`said` is the statement as it was typed, shortened."""

    def __init__(self, said: str, *, hint: str | None = None) -> None:
        super().__init__(f'invalid command "{said}"; SHOW HELP lists what there is', hint=hint)


class UnknownParameter(ConsoleError):
    sqlstate = "42P02"

    def __init__(self, number: int) -> None:
        super().__init__(f"there is no parameter ${number}")


class BadEncoding(ConsoleError):
    sqlstate = "22021"

    def __init__(self) -> None:
        super().__init__('invalid byte sequence for encoding "UTF8"')


class BrokenMessage(ConsoleError):
    """A message whose parts do not add up."""

    sqlstate = "08P01"


class Unsupported(ConsoleError):
    sqlstate = "0A000"


class InvalidValue(ConsoleError):
    sqlstate = "22023"


class NullParameter(ConsoleError):
    sqlstate = "22004"

    def __init__(self, number: int) -> None:
        super().__init__(f"parameter ${number} is NULL; a command takes values only")


# Prepared statements and portals


class UnknownStatement(ConsoleError):
    sqlstate = "26000"

    def __init__(self, name: str) -> None:
        super().__init__(f'prepared statement "{name}" does not exist' if name else "there is no unnamed statement")


class StatementExists(ConsoleError):
    sqlstate = "42P05"

    def __init__(self, name: str) -> None:
        super().__init__(f'prepared statement "{name}" already exists')


class UnknownPortal(ConsoleError):
    sqlstate = "34000"

    def __init__(self, name: str) -> None:
        super().__init__(f'portal "{name}" does not exist')


class PortalExists(ConsoleError):
    sqlstate = "42P03"

    def __init__(self, name: str) -> None:
        super().__init__(f'portal "{name}" already exists')


class PortalSpent(ConsoleError):
    """A command without rows runs once per Bind (PostgreSQL: PortalRun)."""

    sqlstate = "55000"

    def __init__(self, name: str) -> None:
        super().__init__(f'portal "{name}" cannot be run anymore')


class TooManyStatements(ConsoleError):
    sqlstate = "54000"

    def __init__(self, limit: int) -> None:
        super().__init__(f"this session keeps {limit} prepared statements or portals already", hint="Run DISCARD ALL.")


class NoTransaction(ConsoleError):
    sqlstate = "25P01"

    def __init__(self, command: str) -> None:
        super().__init__(f"{command} can only be used in transaction blocks")


# What cannot be done now


class NotInThatState(ConsoleError):
    """Already paused, not paused, and their like."""

    sqlstate = "55000"


class NoSuchDatabase(ConsoleError):
    sqlstate = "3D000"

    def __init__(self, name: str) -> None:
        super().__init__(f"no such database: {name}", hint="SHOW DATABASES lists them; names keep their case.")


class UnknownSetting(ConsoleError):
    sqlstate = "42704"

    def __init__(self, name: str, *, hint: str | None = None) -> None:
        super().__init__(f'unrecognized configuration parameter "{name}"', hint=hint)


class FixedSetting(ConsoleError):
    sqlstate = "55P02"

    def __init__(self, name: str, *, hint: str | None = None) -> None:
        super().__init__(f'parameter "{name}" cannot be changed now', hint=hint)


class BadConfiguration(ConsoleError):
    """RELOAD found problems; `detail` has one line for each."""

    sqlstate = "F0000"
    log_level = "warning"


class Canceled(ConsoleError):
    sqlstate = "57014"

    def __init__(self, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__("canceling statement due to user request", detail=detail, hint=hint)


class ShuttingDown(ConsoleError):
    sqlstate = "57P01"

    def __init__(self) -> None:
        super().__init__("the daemon is shutting down; the command was broken off")


class VerbFailed(ConsoleError):
    """A verb of a move did not go through; the SQLSTATE is the one the move chose."""

    def __init__(self, sqlstate: str, message: str, *, detail: str, hint: str) -> None:
        super().__init__(message, detail=detail or None, hint=hint or None)
        self.sqlstate = sqlstate
