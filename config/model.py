"""The configuration as the rest of the program sees it: frozen, typed, every time in milliseconds.

Key names follow PgDog where the meaning is the same, then PgBouncer. A value of 0 for a time-out or a
limit means "off". Field descriptions are the reference: `pgcutover init` prints them as comments.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr


@dataclass(frozen=True, slots=True)
class Unit:
    """What a number counts; the generated comments say so."""

    name: str


@dataclass(frozen=True, slots=True)
class PathMark:
    """A path in the configuration: relative ones start at the folder of the configuration file.

    `words` are values that are no paths.
    """

    folder: bool = False
    words: tuple[str, ...] = ()


Milliseconds = Annotated[int, Field(ge=0, le=2_147_483_647), Unit("milliseconds")]
# Not Milliseconds with Field(ge=100): pydantic lets the alias's own bound win over the field's.
PauseBudget = Annotated[int, Field(ge=100, le=2_147_483_647), Unit("milliseconds")]
PortNumber = Annotated[int, Field(ge=1, le=65535)]
FilePath = Annotated[str, Field(min_length=1), PathMark()]
RootCertificates = Annotated[str, Field(min_length=1), PathMark(words=("system",))]
FolderPath = Annotated[str, Field(min_length=1), PathMark(folder=True)]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


class PoolerMode(StrEnum):
    SESSION = "session"
    TRANSACTION = "transaction"


class AuthType(StrEnum):
    """How a client proves who it is; the words of pg_hba.conf."""

    SCRAM = "scram"
    MD5 = "md5"
    PLAIN = "plain"
    TRUST = "trust"
    CERT = "cert"


class SslMode(StrEnum):
    """libpq's words, towards servers and (as a demand on clients) on our own port."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class TransactionAction(StrEnum):
    ABORT = "abort"
    TERMINATE = "terminate"


class SessionPolicy(StrEnum):
    DISCONNECT = "disconnect"
    ABORT = "abort"


class MissingNode(StrEnum):
    ABORT = "abort"
    FENCE = "fence"


class FenceKind(StrEnum):
    READ_ONLY = "read_only"
    TRIGGERS = "triggers"
    NONE = "none"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class General(Section):
    host: str = Field(default="0.0.0.0", description="address to listen on")
    port: PortNumber = Field(default=6432, description="port to listen on; the admin database answers here too")
    workers: int = Field(default=1, ge=1, description="processes that share the port; only 1 is supported today")
    pooler_mode: PoolerMode = Field(
        default=PoolerMode.SESSION,
        description="how long a client keeps its link; only session is supported today",
    )
    auth_type: AuthType = Field(default=AuthType.SCRAM, description="how clients log in")
    max_client_conn: int = Field(default=1000, ge=1, description="clients at the same time, admin sessions not counted")
    default_pool_size: int = Field(default=0, ge=0, description="links per database at the same time; 0: no limit")
    client_login_timeout: Milliseconds = Field(default=60_000, description="a client must be logged in by then")
    client_idle_timeout: Milliseconds = Field(default=0, description="an idle client outside a transaction is closed")
    client_idle_in_transaction_timeout: Milliseconds = Field(
        default=0, description="a client that idles inside a transaction is closed"
    )
    query_timeout: Milliseconds = Field(default=0, description="a request may run this long")
    query_wait_timeout: Milliseconds = Field(default=120_000, description="a request may wait this long for a link")
    connect_timeout: Milliseconds = Field(default=5_000, description="a link must be open and logged in by then")
    shutdown_timeout: Milliseconds = Field(
        default=60_000, description="SHUTDOWN and SIGTERM wait this long for clients"
    )
    client_tls_sslmode: SslMode = Field(
        default=SslMode.DISABLE, description="TLS asked of clients; anything but disable needs a certificate"
    )
    tls_certificate: FilePath | None = Field(
        default=None, examples=["server.crt"], description="PEM file with our certificate chain"
    )
    tls_private_key: FilePath | None = Field(default=None, examples=["server.key"], description="PEM file with its key")
    tls_client_ca_certificate: FilePath | None = Field(
        default=None, examples=["clients-ca.crt"], description="PEM file of CAs for client certificates"
    )
    log_level: LogLevel = Field(default="info", description="least level logged")
    log_format: LogFormat = Field(default="console", description="how log lines look")
    cutover_save_config: bool = Field(default=False, description="write both files after a swap (backups: *.bak.toml)")
    cutover_max_pause: PauseBudget = Field(default=5_000, description="no client is held longer than this")
    cutover_transaction_timeout: Milliseconds = Field(
        default=2_000, description="open transactions may take this long to finish once the gate drains"
    )
    cutover_transaction_action: TransactionAction = Field(
        default=TransactionAction.ABORT, description="what then: abort the run, or terminate the stragglers"
    )
    cutover_traffic_stop_threshold: int = Field(
        default=1_000_000, ge=0, description="bytes of replication lag above which a run does not start"
    )
    cutover_session_policy: SessionPolicy = Field(
        default=SessionPolicy.DISCONNECT,
        description="sessions that cannot move: disconnect them or abort the run",
    )
    cutover_missing_node: MissingNode = Field(
        default=MissingNode.ABORT, description="a silent node: abort, or fence it"
    )
    cutover_fence: FenceKind = Field(
        default=FenceKind.READ_ONLY, description="what keeps strangers from writing to the old database"
    )


class Admin(Section):
    name: str = Field(default="admin", min_length=1, description="name of the admin database")
    user: str = Field(default="admin", min_length=1, description="the user that may log in to it")
    password: SecretStr = Field(description="its password (or password_file, or password_env)")


class Http(Section):
    host: str = Field(default="127.0.0.1", description="address of /metrics, /healthz and /readyz")
    port: PortNumber = Field(default=8432, description="port of /metrics, /healthz and /readyz")


class Replication(Section):
    pg_bin_dir: FolderPath | None = Field(
        default=None,
        examples=["/usr/lib/postgresql/18/bin"],
        description="folder with pg_dump and pg_restore; default: PATH, then the embedded package",
    )
    copy_jobs: int = Field(default=4, ge=1, le=64, description="indexes and constraints built at the same time")


class Database(Section):
    """One `[[databases]]` entry: a name that clients use, and where it leads."""

    name: str = Field(min_length=1, description="what clients ask for")
    host: str = Field(min_length=1, description="host name, address, or folder of a Unix socket")
    port: PortNumber = Field(default=5432, description="port of the server")
    database_name: str | None = Field(
        default=None, examples=["app"], description="what it is called there; default: name"
    )
    pool_size: int | None = Field(
        default=None, examples=[20], ge=0, description="links at the same time; default: default_pool_size"
    )
    pooler_mode: PoolerMode | None = Field(
        default=None, examples=["session"], description="as in [general]; default: what is set there"
    )
    sslmode: SslMode = Field(default=SslMode.PREFER, description="TLS towards the server")
    sslrootcert: RootCertificates | None = Field(
        default=None,
        examples=["servers-ca.crt"],
        description='PEM file of CAs for verify-ca and verify-full, or "system"',
    )
    sslcert: FilePath | None = Field(
        default=None, examples=["client.crt"], description="PEM file with our client certificate"
    )
    sslkey: FilePath | None = Field(default=None, examples=["client.key"], description="PEM file with its key")

    @property
    def server_database(self) -> str:
        return self.database_name if self.database_name is not None else self.name


class CutoverPair(Section):
    """One `[[cutover]]` entry: which database moves to which, and who does the work on both."""

    source: str = Field(min_length=1, description="the name that clients use")
    destination: str = Field(min_length=1, description="where its traffic is to go")
    user: str = Field(min_length=1, description="replicates and administers; in users.toml for both")
    source_replication_host: str | None = Field(
        default=None,
        examples=["10.1.0.5"],
        description="how the destination server reaches the source; default: its host",
    )
    source_replication_port: PortNumber | None = Field(
        default=None, examples=[5432], description="the same for the port; default: its port"
    )
    destination_replication_host: str | None = Field(
        default=None,
        examples=["10.1.0.9"],
        description="how the source server reaches the destination; default: its host",
    )
    destination_replication_port: PortNumber | None = Field(
        default=None, examples=[5432], description="the same for the port; default: its port"
    )
    subscription: str | None = Field(
        default=None,
        examples=["app_subscription"],
        description="an existing subscription on the destination to adopt",
    )

    @property
    def name(self) -> str:
        """What `CUTOVER name;` takes."""
        return self.source


class User(Section):
    """One `[[users]]` entry of users.toml."""

    name: str = Field(min_length=1, description="who logs in to the proxy")
    database: str = Field(min_length=1, description="a name of [[databases]]")
    password: SecretStr | None = Field(
        default=None,
        description="what the client logs in with: plain, a SCRAM-SHA-256$... verifier, or an md5 hash",
    )
    server_user: str | None = Field(
        default=None, examples=["app_owner"], description="who logs in to the server; default: name"
    )
    server_password: SecretStr | None = Field(
        default=None,
        examples=["change-me"],
        description="its password there; default: password, where that is plain",
    )

    @property
    def login_user(self) -> str:
        return self.server_user if self.server_user is not None else self.name


class Config(Section):
    """Both files together. Immutable: a RELOAD or a swap makes a new one."""

    general: General = Field(default_factory=General)
    admin: Admin
    http: Http | None = None
    replication: Replication = Field(default_factory=Replication)
    databases: tuple[Database, ...] = ()
    cutover: tuple[CutoverPair, ...] = ()
    users: tuple[User, ...] = ()

    def database(self, name: str) -> Database | None:
        return next((entry for entry in self.databases if entry.name == name), None)

    def user(self, name: str, database: str) -> User | None:
        return next((u for u in self.users if u.name == name and u.database == database), None)

    def pair(self, name: str) -> CutoverPair | None:
        return next((entry for entry in self.cutover if entry.name == name), None)

    def pool_size(self, database: Database) -> int:
        return database.pool_size if database.pool_size is not None else self.general.default_pool_size

    def swapped(self, source: str, destination: str) -> Self:
        """The configuration in which the two names have changed places, in both files.

        `database_name` is pinned first, since its default follows the name (the rule of PgDog's cutover,
        its default is taken from the name at load time). Replication addresses of a pair belong to the
        server, so they move too.
        """
        other = {source: destination, destination: source}
        databases = tuple(
            d.model_copy(update={"name": other[d.name], "database_name": d.server_database}) if d.name in other else d
            for d in self.databases
        )
        users = tuple(
            u.model_copy(update={"database": other[u.database]}) if u.database in other else u for u in self.users
        )
        pairs = tuple(
            p.model_copy(
                update={
                    "source_replication_host": p.destination_replication_host,
                    "source_replication_port": p.destination_replication_port,
                    "destination_replication_host": p.source_replication_host,
                    "destination_replication_port": p.source_replication_port,
                }
            )
            if {p.source, p.destination} == {source, destination}
            else p
            for p in self.cutover
        )
        return self.model_copy(update={"databases": databases, "users": users, "cutover": pairs})
