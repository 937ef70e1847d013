"""Where and as whom the control connections of one side log in."""

from __future__ import annotations

from dataclasses import dataclass, field

from config.model import Config, CutoverPair, Database, SslMode


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One side of a pair, as the control user reaches it, and as the other server reaches it."""

    name: str
    host: str
    port: int
    database: str
    user: str
    password: str | None = field(repr=False)
    sslmode: SslMode = SslMode.PREFER
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    replication_host: str | None = None
    replication_port: int | None = None

    @property
    def place(self) -> str:
        """The address in words."""
        return f"{self.host}:{self.port}/{self.database}"

    def replication_conninfo(self) -> str:
        """The libpq connection string that the other server's subscription uses. Holds the password.

        `options` turns row-level security into an error where it would silently filter the copy, and keeps
        an operator's time-outs from killing a copy (PostgreSQL: row_security, statement_timeout).
        """
        pairs = {
            "host": self.replication_host or self.host,
            "port": str(self.replication_port or self.port),
            "dbname": self.database,
            "user": self.user,
            "sslmode": self.sslmode.value,
            "connect_timeout": "10",
            "options": "-c row_security=off -c statement_timeout=0 -c idle_in_transaction_session_timeout=0",
        }
        if self.password is not None:
            pairs["password"] = self.password
        return " ".join(f"{key}={_quote(value)}" for key, value in pairs.items())


def _quote(value: str) -> str:
    """libpq's quoting of connection string values (PostgreSQL: 32.1.1.1 Keyword/Value Connection Strings)."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def endpoint(config: Config, pair: CutoverPair, name: str) -> Endpoint:
    """The endpoint of one side of `pair`; `name` is its source or its destination.

    Raises KeyError where the configuration lacks the database or its control user; loading checks both.
    """
    database: Database | None = config.database(name)
    user = config.user(pair.user, name)
    if database is None or user is None:
        raise KeyError(f'database "{name}" or user "{pair.user}" for it is not configured')
    secret = user.server_password or user.password
    is_source = name == pair.source
    return Endpoint(
        name=name,
        host=database.host,
        port=database.port,
        database=database.server_database,
        user=user.login_user,
        password=secret.get_secret_value() if secret is not None else None,
        sslmode=database.sslmode,
        sslrootcert=database.sslrootcert,
        sslcert=database.sslcert,
        sslkey=database.sslkey,
        replication_host=pair.source_replication_host if is_source else pair.destination_replication_host,
        replication_port=pair.source_replication_port if is_source else pair.destination_replication_port,
    )
