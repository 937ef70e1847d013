"""Errors that end a client's session, a link or a request.

Each type owns the SQLSTATE and severity the client reads, and the level at which the daemon logs it. The text
is PostgreSQL's own wherever PostgreSQL has one, so that a driver cannot tell whom it was talking to. Nothing
in a message may be a secret: it goes to clients. `wire.messages.error_bytes` turns an error into an
ErrorResponse.

SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from typing import ClassVar


class ProxyError(Exception):
    """Base of all of them.

    `message`, `detail` and `hint` are what the client is shown; `log_detail` is for the log only (addresses,
    file names).
    """

    sqlstate: str = "XX000"
    severity: str = "FATAL"
    log_level: ClassVar[str] = "info"
    sent_to_client: ClassVar[bool] = True
    """False where PostgreSQL only logs and hangs up (its COMMERROR), or where nobody is left to read."""

    def __init__(
        self,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        log_detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.log_detail = log_detail


class InternalError(ProxyError):
    """A fault of ours; the log has the particulars, the client only learns that it was not its own."""

    log_level = "error"

    def __init__(self, message: str = "internal error in the proxy") -> None:
        super().__init__(message)


# Who may come in


class InvalidPassword(ProxyError):
    """Also for an unknown user, an unknown pair of user and database, and a secret that does not fit the
    method.
    """

    sqlstate = "28P01"

    def __init__(self, user: str) -> None:
        super().__init__(f'password authentication failed for user "{user}"')


class EmptyPassword(ProxyError):
    sqlstate = "28P01"

    def __init__(self) -> None:
        super().__init__("empty password returned by client")


class InvalidAuthorization(ProxyError):
    sqlstate = "28000"


class MissingUserName(InvalidAuthorization):
    def __init__(self) -> None:
        super().__init__("no PostgreSQL user name specified in startup packet")


class UnknownRole(InvalidAuthorization):
    """Only where no password was asked for; otherwise it would tell strangers which users exist."""

    def __init__(self, user: str) -> None:
        super().__init__(f'role "{user}" does not exist')


class CertificateRejected(InvalidAuthorization):
    def __init__(self, user: str) -> None:
        super().__init__(f'certificate authentication failed for user "{user}"')


class CertificateRequired(InvalidAuthorization):
    def __init__(self) -> None:
        super().__init__("connection requires a valid client certificate")


class TlsRequired(InvalidAuthorization):
    def __init__(self) -> None:
        super().__init__("SSL connection is required", hint='Connect with "sslmode=require" or stricter.')


class UnknownDatabase(ProxyError):
    sqlstate = "3D000"

    def __init__(self, database: str) -> None:
        super().__init__(f'database "{database}" does not exist')


class TooManyConnections(ProxyError):
    sqlstate = "53300"
    log_level = "warning"

    def __init__(self, message: str = "sorry, too many clients already") -> None:
        super().__init__(message)


class LoginTimeout(ProxyError):
    """PostgreSQL's text for its log; it hangs up without a word (ProcessInterrupts in tcop/postgres.c)."""

    sqlstate = "57014"
    sent_to_client = False

    def __init__(self) -> None:
        super().__init__("canceling authentication due to timeout")


# What was said


class ProtocolViolation(ProxyError):
    sqlstate = "08P01"


class FeatureNotSupported(ProxyError):
    sqlstate = "0A000"


class InvalidParameterValue(ProxyError):
    sqlstate = "22023"


class TlsHandshakeFailed(ProxyError):
    sqlstate = "08P01"
    sent_to_client = False


class PeerClosed(ProxyError):
    """The other end of a socket hung up. `clean` where it did so between two messages."""

    sqlstate = "08006"
    log_level = "debug"
    sent_to_client = False

    def __init__(self, message: str = "connection closed by peer", *, clean: bool = True) -> None:
        super().__init__(message)
        self.clean = clean


# How long


class IdleTimeout(ProxyError):
    sqlstate = "57P05"

    def __init__(self) -> None:
        super().__init__("terminating connection due to idle-session timeout")


class IdleInTransactionTimeout(ProxyError):
    sqlstate = "25P03"

    def __init__(self) -> None:
        super().__init__("terminating connection due to idle-in-transaction timeout")


class QueryTimeout(ProxyError):
    sqlstate = "57014"

    def __init__(self) -> None:
        super().__init__("canceling statement due to statement timeout", detail="The proxy's query_timeout.")


class QueryCanceled(ProxyError):
    """A cancel request reached a request that the proxy had not sent on yet."""

    sqlstate = "57014"
    severity = "ERROR"

    def __init__(self) -> None:
        super().__init__("canceling statement due to user request")


class QueryWaitTimeout(ProxyError):
    sqlstate = "57P03"
    log_level = "warning"

    def __init__(self, database: str, waited_s: float) -> None:
        super().__init__(
            f'no server connection for database "{database}" within {waited_s:.1f} s',
            hint="The request was not sent to the server; it is safe to repeat it.",
        )


# The proxy and the servers themselves


class AdminShutdown(ProxyError):
    sqlstate = "57P01"

    def __init__(self, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__("terminating connection due to administrator command", detail=detail, hint=hint)


class CannotConnectNow(ProxyError):
    sqlstate = "57P03"


class ServerUnreachable(ProxyError):
    """A link could not be opened, or was lost. Names the database, never a password."""

    sqlstate = "08006"
    log_level = "warning"
