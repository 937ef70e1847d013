"""What must hold between entries of both files: names meet, pairs can swap, users keep their access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from .model import Admin, AuthType, CutoverPair, Database, General, Http, PoolerMode, User
from .problems import Problem
from .secret import is_md5_hash, is_plain, is_scram_verifier
from .structure import Entry

_EVERY_ADDRESS = ("0.0.0.0", "::", "*", "")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(slots=True)
class Entries:
    """Everything that could be read of both files, problems or not."""

    general: Entry[General] | None = None
    admin: Entry[Admin] | None = None
    http: Entry[Http] | None = None
    databases: list[Entry[Database]] = field(default_factory=list)
    cutover: list[Entry[CutoverPair]] = field(default_factory=list)
    users: list[Entry[User]] = field(default_factory=list)

    @property
    def settings(self) -> General:
        """The general section; all defaults where the file has none."""
        model = self.general.model if self.general is not None else None
        return model if model is not None else General()

    def settings_with(self, *keys: str) -> General | None:
        """The same, or None where one of `keys` has a problem, so that nothing can be said about it."""
        return self.settings if self.general is None else self.general.sound(*keys)

    @property
    def admin_name(self) -> str:
        default = str(Admin.model_fields["name"].default)
        return (self.admin.text("name") if self.admin is not None else None) or default

    def database(self, name: str) -> Entry[Database] | None:
        return next((entry for entry in self.databases if entry.text("name") == name), None)

    def user(self, name: str, database: str) -> Entry[User] | None:
        return next((u for u in self.users if (u.text("name"), u.text("database")) == (name, database)), None)

    def is_control_user(self, user: Entry[User]) -> bool:
        name, database = user.text("name"), user.text("database")
        return any(
            name == pair.text("user") and database in (pair.text("source"), pair.text("destination"))
            for pair in self.cutover
        )


def check_references(entries: Entries, *, users_known: bool) -> Iterator[Problem]:
    """All problems between entries. `users_known` is False where the users file could not be read."""
    yield from _general(entries)
    for position, database in enumerate(entries.databases):
        yield from _database(entries, database, entries.databases[:position])
    for position, pair in enumerate(entries.cutover):
        yield from _pair(entries, pair, entries.cutover[:position])
        if users_known:
            yield from _pair_users(entries, pair)
    for position, user in enumerate(entries.users):
        yield from _user(entries, user, entries.users[:position])


def _general(entries: Entries) -> Iterator[Problem]:
    general = entries.general
    if general is not None and general.model is not None:
        if general.model.pooler_mode is PoolerMode.TRANSACTION:
            yield general.problem("pooler_mode", _NO_TRANSACTION_MODE)
        if general.model.workers > 1:
            message = f"{general.model.workers} workers are not supported in this version; leave it at 1"
            yield general.problem("workers", message)
    http = entries.http
    served, settings = (http.sound("port") if http is not None else None), entries.settings_with("port")
    if http is not None and served is not None and settings is not None and served.port == settings.port:
        message = f"{served.port} is also the port that clients connect to ([general] port); choose another"
        yield http.problem("port", message)


_NO_TRANSACTION_MODE = '"transaction" is not supported in this version; use "session"'


def _database(entries: Entries, database: Entry[Database], earlier: Sequence[Entry[Database]]) -> Iterator[Problem]:
    name = database.text("name")
    if name is not None:
        twin = next((entry for entry in earlier if entry.text("name") == name), None)
        if twin is not None:
            message = f'there are two databases called "{name}"; the other one is at line {twin.line}'
            yield database.problem("name", message)
        if name == entries.admin_name:
            message = f'"{name}" is the name of the admin database; rename one of them ([admin] name)'
            yield database.problem("name", message)
    if database.model is not None and database.model.pooler_mode is PoolerMode.TRANSACTION:
        yield database.problem("pooler_mode", _NO_TRANSACTION_MODE)
    settings, model = entries.settings_with("host", "port"), database.sound("host", "port")
    if settings is not None and model is not None and _leads_back(settings, model):
        address = f"{model.host}:{model.port}"
        message = f"{address} is this proxy itself; give the address of PostgreSQL"
        yield database.problem("host", message)


def _leads_back(general: General, database: Database) -> bool:
    if database.port != general.port:
        return False
    return database.host == general.host or (general.host in _EVERY_ADDRESS and database.host in _LOOPBACK)


def _pair(entries: Entries, pair: Entry[CutoverPair], earlier: Sequence[Entry[CutoverPair]]) -> Iterator[Problem]:
    source, destination = pair.text("source"), pair.text("destination")
    for key, name in (("source", source), ("destination", destination)):
        if name is not None and entries.database(name) is None:
            yield pair.problem(key, _no_such_database(entries, name))
    if source is None or destination is None:
        return
    if source == destination:
        yield pair.problem("destination", f'is "{source}", as the source is; a move needs two databases')
    else:
        yield from _same_place(entries, pair, source, destination)
        yield from _side_doors(entries, source, destination)
    for other in earlier:
        shared = {source, destination} & {other.text("source"), other.text("destination")}
        for name in sorted(shared - {None}, key=str):
            key = "source" if name == source else "destination"
            message = (
                f'the pairs "{other.text("source")}" (line {other.line}) and "{source}" (line {pair.line}) '
                f'both use the database "{name}"; a database can be in one pair only'
            )
            yield pair.problem(key, message)


def _same_place(entries: Entries, pair: Entry[CutoverPair], source: str, destination: str) -> Iterator[Problem]:
    one, other = entries.database(source), entries.database(destination)
    if one is None or other is None:
        return
    a, b = (entry.sound("host", "port", "database_name") for entry in (one, other))
    if a is None or b is None:
        return
    if (a.host, a.port, a.server_database) == (b.host, b.port, b.server_database):
        message = (
            f'"{source}" and "{destination}" are the same database ("{a.server_database}" at '
            f"{a.host}:{a.port}); one of the two entries has the wrong address"
        )
        yield pair.problem("destination", message)


def _side_doors(entries: Entries, source: str, destination: str) -> Iterator[Problem]:
    """Another name for a side of a pair: its clients would stay behind when the pair moves."""
    for side_name in (source, destination):
        side = entries.database(side_name)
        place = _place(side) if side is not None else None
        for entry in entries.databases:
            if place is not None and entry.text("name") not in (source, destination) and _place(entry) == place:
                message = (
                    f'"{entry.text("name")}" leads to the same database as "{side_name}", which is part of a '
                    "[[cutover]]; "
                    f'its clients would stay behind when "{source}" moves, so let them ask for "{source}"'
                )
                yield entry.problem("host", message)


def _place(entry: Entry[Database]) -> tuple[str, int, str] | None:
    model = entry.sound("host", "port", "database_name")
    return (model.host, model.port, model.server_database) if model is not None else None


def _pair_users(entries: Entries, pair: Entry[CutoverPair]) -> Iterator[Problem]:
    source, destination, control = pair.text("source"), pair.text("destination"), pair.text("user")
    if source is None or destination is None or source == destination:
        return
    if entries.database(source) is None or entries.database(destination) is None:
        return  # named already, and the users cannot be right before that is
    if control is not None:
        for database in (source, destination):
            yield from _control_user(entries, pair, control, database)
    for here, there in ((source, destination), (destination, source)):
        for user in entries.users:
            name = user.text("name")
            if name is None or name == control or user.text("database") != here:
                continue
            if entries.user(name, there) is None:
                message = (
                    f'user "{name}" has "{here}" but not "{there}": the names change places at a cutover, so '
                    f'"{name}" would lose access to "{here}"; add a [[users]] entry for "{there}" '
                    "with the login it is to use there"
                )
                yield user.problem("database", message)


def _control_user(entries: Entries, pair: Entry[CutoverPair], control: str, database: str) -> Iterator[Problem]:
    user = entries.user(control, database)
    if user is None:
        message = f'"{control}" has no [[users]] entry for "{database}"; it needs one for each side of the pair'
        yield pair.problem("user", message)
        return
    model = user.sound("password", "server_password")
    if model is None:
        return
    key = "server_password" if model.server_password is not None else "password"
    secret = model.server_password if model.server_password is not None else model.password
    # Without any password the server is expected to trust us, or to take a certificate.
    if secret is not None and not is_plain(secret.get_secret_value()):
        message = (
            f'"{control}" moves "{database}" and logs in to its server, which a hashed password cannot do; '
            "give the plain one as server_password"
        )
        yield user.problem(key, message)


def _user(entries: Entries, user: Entry[User], earlier: Sequence[Entry[User]]) -> Iterator[Problem]:
    name, database = user.text("name"), user.text("database")
    if name is not None and database is not None:
        twin = next((u for u in earlier if (u.text("name"), u.text("database")) == (name, database)), None)
        if twin is not None:
            message = f'user "{name}" has two entries for "{database}"; the other one is at line {twin.line}'
            yield user.problem("name", message)
    if database is not None and entries.database(database) is None:
        yield user.problem("database", _no_such_database(entries, database))
    settings, model = entries.settings_with("auth_type"), user.sound("password")
    if settings is not None and model is not None and not entries.is_control_user(user):
        yield from _login(settings.auth_type, user, model)
    secret = user.model.server_password if user.model is not None else None
    # An md5 hash is as good as the password for a server that asks for md5; a verifier is for nothing here.
    if secret is not None and is_scram_verifier(secret.get_secret_value()):
        message = "is a SCRAM verifier, which recognises a login and cannot make one; give the plain password"
        yield user.problem("server_password", message)


def _login(auth_type: AuthType, entry: Entry[User], user: User) -> Iterator[Problem]:
    """Whether a client can prove to us that it is this user. The control user of a pair need not."""
    if auth_type in (AuthType.TRUST, AuthType.CERT):
        return
    if user.password is None:
        message = f'is missing; with auth_type = "{auth_type}", "{user.name}" could never log in without one'
        yield entry.problem("password", message)
        return
    # The other way round works: as in PostgreSQL, md5 means SCRAM for a user whose secret is a verifier.
    if auth_type is AuthType.SCRAM and is_md5_hash(user.password.get_secret_value()):
        message = 'is an md5 hash, of no use with auth_type = "scram"; give the plain one or a SCRAM verifier'
        yield entry.problem("password", message)


def _no_such_database(entries: Entries, name: str) -> str:
    if name == entries.admin_name:
        return f'"{name}" is the admin database; its user and password are in [admin]'
    names = [known for entry in entries.databases if (known := entry.text("name")) is not None]
    close = get_close_matches(name, names, n=1)
    if close:
        return f'there is no database "{name}" in [[databases]]; did you mean "{close[0]}"?'
    known = ", ".join(names) if names else "none at all"
    return f'there is no database "{name}" in [[databases]]; there is: {known}'
