"""Errors of the move's preparation that an operator can mend: what is wrong, where, what to do."""

from __future__ import annotations

from collections.abc import Sequence


class ReplicationError(Exception):
    """Base class. `message` is the client's text, `detail` the evidence, `hint` what to do."""

    sqlstate = "55000"
    log_level = "error"

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return "; ".join(part for part in (self.message, self.detail, self.hint) if part)


class ToolsMissing(ReplicationError):
    """No pg_dump and pg_restore that are new enough for both servers."""

    sqlstate = "58P01"


class ToolFailed(ReplicationError):
    """pg_dump or pg_restore ended with an error, or was silent for too long."""

    sqlstate = "58000"


class SchemaRefused(ReplicationError):
    """The destination cannot take the schema, or has one that does not fit. Nothing was changed."""

    sqlstate = "42P17"


class SchemaInTheWay(ReplicationError):
    """Somebody else's objects depend on what is to be removed. Nothing was removed."""

    sqlstate = "2BP01"


class StreamError(ReplicationError):
    """A publication, slot or subscription is not as it must be, or did not do what it was told in time."""


class SlotBlocked(StreamError):
    """Making a replication slot waited too long for other transactions to end."""

    sqlstate = "55P03"
    log_level = "warning"


class CopyStalled(StreamError):
    """The initial copy fails again and again, or does not go on."""


class MoveRefused(ReplicationError):
    """The state of the two databases does not allow what was asked."""

    log_level = "warning"


class SideUnreachable(ReplicationError):
    """One side could not be asked. What was done is said in `detail`; the command can be repeated."""

    sqlstate = "08001"
    log_level = "warning"


def listed(items: Sequence[str], most: int = 12) -> str:
    """Items for an error text; a long list says how many it leaves out."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
