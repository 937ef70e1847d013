"""Loading both files: values, secrets, and every kind of problem with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import load, load_console, load_texts
from config.model import AuthType, Config, PoolerMode, SslMode
from config.problems import ConfigError, Problem

CONFIG = """\
[general]
port = 6432

[admin]
password = "admin-secret"

[http]
port = 8432

[[databases]]
name = "app"
host = "10.0.0.5"

[[databases]]
name = "app_next"
host = "10.0.0.9"
database_name = "app"

[[cutover]]
source = "app"
destination = "app_next"
user = "replicator"
"""

USERS = """\
[[users]]
name = "alice"
database = "app"
password = "a"

[[users]]
name = "alice"
database = "app_next"
password = "a"

[[users]]
name = "replicator"
database = "app"
password = "r"

[[users]]
name = "replicator"
database = "app_next"
password = "r"
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load_text(config: str = CONFIG, users: str = USERS, environ: dict[str, str] | None = None) -> Config:
    Path("pgcutover.toml").write_text(config, newline="")
    Path("users.toml").write_text(users, newline="")
    return load("pgcutover.toml", "users.toml", environ if environ is not None else {})


def problems(config: str = CONFIG, users: str = USERS, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(config, users, environ)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


def test_both_files_become_one_configuration() -> None:
    config = load_text()
    assert config.general.port == 6432
    assert config.general.pooler_mode is PoolerMode.SESSION
    assert config.admin.password.get_secret_value() == "admin-secret"
    assert config.http is not None
    assert [d.server_database for d in config.databases] == ["app", "app"]
    assert config.databases[0].sslmode is SslMode.PREFER
    assert [pair.name for pair in config.cutover] == ["app"]
    assert {(u.name, u.database) for u in config.users} == {
        ("alice", "app"),
        ("alice", "app_next"),
        ("replicator", "app"),
        ("replicator", "app_next"),
    }


def test_the_smallest_configuration_has_an_admin_only() -> None:
    config = load_text("admin.password = 'x'\n", "")
    assert config.http is None
    assert config.databases == ()
    assert config.general.auth_type is AuthType.SCRAM


def test_a_problem_says_where_and_what() -> None:
    assert str(Problem("a.toml", 3, "general.port", "is wrong")) == "a.toml:3: general.port: is wrong"
    assert str(Problem("a.toml", 0, "", "is missing")) == "a.toml: is missing"


# One key


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('port = "6432"', 'general.port: must be a whole number, not the string "6432"; remove the quotes'),
        ("port = true", "general.port: must be a whole number, not true"),
        ("port = 6432.0", "general.port: must be a whole number, not 6432.0"),
        ("port = 0", "general.port: must be between 1 and 65535, not 0"),
        ("port = 65536", "general.port: must be between 1 and 65535, not 65536"),
        (
            'connect_timeout = "5s"',
            'general.connect_timeout: must be a whole number of milliseconds, not the string "5s"',
        ),
        (
            "connect_timeout = -1",
            "general.connect_timeout: must be between 0 and 2147483647, not -1",
        ),
        (
            "query_timeout = 1979-05-27 07:32:00",
            "general.query_timeout: must be a whole number of milliseconds, not a date or time",
        ),
        (
            "cutover_max_pause = 99",
            "general.cutover_max_pause: must be between 100 and 2147483647, not 99",
        ),
        ("max_client_conn = 0", "general.max_client_conn: must be 1 or more, not 0"),
        (
            'cutover_save_config = "yes"',
            'general.cutover_save_config: must be true or false, without quotes, not the string "yes"',
        ),
        (
            "cutover_save_config = 1",
            "general.cutover_save_config: must be true or false, without quotes, not 1",
        ),
        ("host = 5", "general.host: must be a string in quotes, not 5"),
        ("host = []", "general.host: must be a string in quotes, not an array"),
        (
            'pooler_mode = "sesion"',
            'general.pooler_mode: must be "session" or "transaction", not the string "sesion"; did you mean "session"?',
        ),
        (
            'log_level = "trace"',
            'general.log_level: must be "debug", "info", "warning" or "error", not the string "trace"',
        ),
        ("auth_type = 1", 'general.auth_type: must be "scram", "md5", "plain", "trust" or "cert", not 1'),
        ("prot = 1", 'general.prot: unknown key in [general]; did you mean "port"?'),
        ('listen_addr = "x"', 'general.listen_addr: unknown key in [general]; did you mean "host"?'),
        ('sslrootcert = "x"', "general.sslrootcert: unknown key in [general]; it belongs in [[databases]]"),
        ("zzz = 1", 'general.zzz: unknown key in [general]; "pgcutover init" writes a file with all keys'),
        ('tls_certificate = ""', "general.tls_certificate: must not be empty"),
        ("workers = 2", "general.workers: 2 workers are not supported in this version; leave it at 1"),
        (
            'pooler_mode = "transaction"',
            'general.pooler_mode: "transaction" is not supported in this version; use "session"',
        ),
    ],
)
def test_one_bad_key_of_general(line: str, expected: str) -> None:
    config = replaced(CONFIG, "port = 6432", f"# a comment\n{line}")
    assert problems(config) == [f"pgcutover.toml:3: {expected}"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('name = "app"\n', "", "pgcutover.toml:10: databases[1].name: is missing: what clients ask for"),
        (
            'host = "10.0.0.5"\n',
            "",
            "pgcutover.toml:10: databases.app.host: is missing: host name, address, or folder of a Unix socket",
        ),
        ('host = "10.0.0.5"\n', 'host = ""\n', "pgcutover.toml:12: databases.app.host: must not be empty"),
        (
            'host = "10.0.0.5"\n',
            'host = "h"\nsslmode = "verify_full"\n',
            'pgcutover.toml:13: databases.app.sslmode: must be "disable", "allow", "prefer", "require", '
            '"verify-ca" or "verify-full", not the string "verify_full"; did you mean "verify-full"?',
        ),
        (
            'host = "10.0.0.5"\n',
            'host = "h"\ndbname = "x"\n',
            'pgcutover.toml:13: databases.app.dbname: unknown key in [[databases]]; did you mean "database_name"?',
        ),
        (
            'host = "10.0.0.5"\n',
            'host = "h"\npooler_mode = "transaction"\n',
            'pgcutover.toml:13: databases.app.pooler_mode: "transaction" is not supported in this version; '
            'use "session"',
        ),
        (
            'host = "10.0.0.5"\n',
            'host = "localhost"\nport = 6432\n',
            "pgcutover.toml:12: databases.app.host: localhost:6432 is this proxy itself; "
            "give the address of PostgreSQL",
        ),
        (
            'user = "replicator"\n',
            "",
            "pgcutover.toml:19: cutover.app.user: is missing: replicates and administers; in users.toml for both",
        ),
        (
            "port = 8432",
            "port = 6432",
            "pgcutover.toml:8: http.port: 6432 is also the port that clients connect to "
            "([general] port); choose another",
        ),
        (
            'password = "admin-secret"\n',
            "",
            "pgcutover.toml:4: admin.password: is missing: its password (or password_file, or password_env)",
        ),
        ('"admin-secret"', '""', "pgcutover.toml:5: admin.password: must not be empty"),
        (
            '"admin-secret"',
            "12345",
            "pgcutover.toml:5: admin.password: must be a string in quotes, not a number",
        ),
    ],
)
def test_one_bad_key_elsewhere(old: str, new: str, expected: str) -> None:
    found = problems(replaced(CONFIG, old, new))
    assert expected in found
    # A missing name of a database or of the control user is missed in other places too.
    if '"name' not in old and "user" not in old and "name = " not in old:
        assert found == [expected]


# Sections


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[amdin]", "amdin: unknown section; did you mean [admin]?"),
        ("[[users]]", "users: belongs in the users file"),
        (
            "[zzz]",
            "zzz: unknown section; there is [general], [admin], [http], [replication], [[databases]] and [[cutover]]",
        ),
        (
            "[[replication]]",
            "replication: write [replication] with one pair of brackets; there is only one of it",
        ),
    ],
)
def test_sections_of_the_configuration_file(line: str, expected: str) -> None:
    assert problems(f"{CONFIG}{line}\n") == [f"pgcutover.toml:23: {expected}"]


def test_keys_outside_of_any_section() -> None:
    assert problems(f"workers = 1\n{CONFIG}") == [
        "pgcutover.toml:1: workers: stands outside of any section; it belongs under [general]"
    ]
    assert problems(f"replication = 1\n{CONFIG}") == [
        "pgcutover.toml:1: replication: must be a table; there is only one of it"
    ]


def test_databases_must_be_an_array_of_tables() -> None:
    assert problems("[admin]\npassword='x'\n[databases]\nname = 'app'\n", "") == [
        "pgcutover.toml:3: databases: write [[databases]] with two pairs of brackets; there can be several"
    ]
    assert problems("databases = 5\nadmin.password='x'\n", "") == [
        "pgcutover.toml:1: databases: must be tables, each under [[databases]]"
    ]
    assert problems("databases = [\n5]\nadmin.password='x'\n", "") == [
        "pgcutover.toml:2: databases[1]: must be a table, not a number"
    ]


def test_sections_of_the_users_file() -> None:
    assert problems(users=f"{USERS}[[user]]\n[general]\n") == [
        "users.toml:20: user: unknown section; did you mean [[users]]?",
        "users.toml:21: general: belongs in the configuration file, not in the users file",
    ]


def test_a_missing_admin_section() -> None:
    config = replaced(CONFIG, '[admin]\npassword = "admin-secret"\n', "")
    assert problems(config) == [
        "pgcutover.toml:1: admin: the section is missing; write [admin] with a password "
        "(or password_file, or password_env)"
    ]


# Files as a whole


def test_both_files_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        load("no.toml", "none.toml")
    hint = 'there is no such file; "pgcutover init" writes one to start from'
    assert [str(p) for p in caught.value.problems] == [f"no.toml: {hint}", f"none.toml: {hint}"]


def test_a_folder_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    Path("latin1.toml").write_bytes(b"[[users]]\n# caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "latin1.toml")
    assert [str(p) for p in caught.value.problems] == [
        f"{tmp_path}: is a folder; give the path of the file in it",
        "latin1.toml:2: is not UTF-8 text from here on; save it as UTF-8",
    ]


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    load_text()
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "users.toml":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"users\.toml: cannot be read: Permission denied"):
        load("pgcutover.toml", "users.toml")


def test_syntax_errors_of_both_files_at_once() -> None:
    found = problems("[general]\nport 6432\n", '[[users]]\nname = "x\n')
    assert [line.partition(": ")[0] for line in found] == ["pgcutover.toml:2", "users.toml:2"]
    assert found[0] == "pgcutover.toml:2: is not TOML: expected '=' after a key in a key/value pair at column 6"


def test_a_syntax_error_at_the_end() -> None:
    assert problems("a = 1\nb = [") == ["pgcutover.toml:2: is not TOML: invalid value at the end of the file"]


def test_a_key_given_twice_is_a_syntax_error_with_its_line() -> None:
    assert problems(replaced(CONFIG, "port = 6432", "port = 6432\nport = 6433"))[0].startswith("pgcutover.toml:3: ")


def test_numbers_and_nesting_beyond_reason_are_problems_too() -> None:
    assert "cannot be parsed" in problems("a = " + "9" * 5000)[0]
    assert "cannot be parsed" in problems("a = " + "[" * 100_000 + "]" * 100_000)[0]


def test_a_users_file_with_a_syntax_error_does_not_blame_the_pairs() -> None:
    assert [line[:13] for line in problems(users="[[users]\n")] == ["users.toml:1:"]


def test_a_configuration_with_a_syntax_error_does_not_blame_the_users() -> None:
    found = problems("[general\n", replaced(USERS, 'name = "alice"\n', "nam = 1\n"))
    assert [line.partition(": ")[0] for line in found] == ["pgcutover.toml:1", "users.toml:1", "users.toml:2"]


# Secrets


def test_passwords_from_files_and_environment(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "admin").write_text("two words \n\n", newline="")
    (tmp_path / "secrets" / "server").write_bytes(b"crlf\r\n")
    config = load_text(
        replaced(CONFIG, 'password = "admin-secret"', 'password_file = "secrets/admin"'),
        replaced(
            USERS,
            'password = "a"',
            f'password_env = "ALICE"\nserver_password_file = "{tmp_path}/secrets/server"',
        ),
        {"ALICE": "from outside"},
    )
    assert config.admin.password.get_secret_value() == "two words \n"
    user = config.users[0]
    assert user.password is not None
    assert user.password.get_secret_value() == "from outside"
    assert user.server_password is not None
    assert user.server_password.get_secret_value() == "crlf"


def test_a_password_file_is_looked_for_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_text(CONFIG.replace('password = "admin-secret"', 'password = "x"'))
    (tmp_path / "pw").write_text("p\n")
    Path("pgcutover.toml").write_text(replaced(CONFIG, 'password = "admin-secret"', 'password_file = "pw"'))
    monkeypatch.chdir("/")
    config = load(tmp_path / "pgcutover.toml", tmp_path / "users.toml")
    assert config.admin.password.get_secret_value() == "p"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('password = "x"\npassword_env = "X"', "admin.password_env: give only one of password, password_env"),
        ('password_env = "X"', "admin.password_env: the environment variable X is not set"),
        ('password_env = "EMPTY"', "admin.password_env: the environment variable EMPTY is empty"),
        ("password_env = 5", "admin.password_env: must be a string in quotes, not a number"),
        (
            'password_file = "nope"',
            "admin.password_file: cannot read {folder}/nope: No such file or directory",
        ),
        ('password_file = "empty"', "admin.password_file: {folder}/empty is empty"),
        ('password_file = "binary"', "admin.password_file: {folder}/binary is not UTF-8 text"),
        ('password_file = ""', "admin.password_file: must not be empty"),
        ('password_file = "\\u0000"', "admin.password_file: '\\x00' is not a path"),
        ("password = []", "admin.password: must be a string in quotes, not an array"),
        ("password = {}", "admin.password: must be a string in quotes, not a table"),
        ('password_fil = "x"', 'admin.password_fil: unknown key in [admin]; did you mean "password_file"?'),
        (
            'password = "SCRAM-SHA-256$4096:abc"',
            "admin.password: the password starts like a SCRAM-SHA-256 verifier but is not a whole one; copy it again",
        ),
    ],
)
def test_problems_with_secrets(tmp_path: Path, lines: str, expected: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    found = problems(replaced(CONFIG, 'password = "admin-secret"', lines), environ={"EMPTY": ""})
    assert found[-1].partition(": ")[2] == expected.format(folder=tmp_path)


def test_no_secret_is_ever_in_a_problem() -> None:
    config = CONFIG.replace('password = "admin-secret"', 'passwort = "hunter2"\npassword = "SCRAM-SHA-256$hunter2"')
    users = USERS.replace('password = "r"', 'password = "hunter2"\nserver_password = ["hunter2"]')
    users += '[[users]]\nname = "x"\nserver_pasword = "hunter2"\npassword = 1\n'
    assert "hunter2" not in "\n".join(problems(config, users))


# Names that must meet


def test_two_databases_of_one_name() -> None:
    config = replaced(CONFIG, "[[cutover]]", '[[databases]]\nname = "app"\nhost = "x"\n\n[[cutover]]')
    assert problems(config) == [
        'pgcutover.toml:20: databases.app.name: there are two databases called "app"; the other one is at line 10'
    ]


def test_a_database_called_like_the_admin_database() -> None:
    config = replaced(CONFIG, "[[cutover]]", '[[databases]]\nname = "admin"\nhost = "x"\n\n[[cutover]]')
    expected = 'databases.admin.name: "admin" is the name of the admin database; rename one of them ([admin] name)'
    assert problems(config) == [f"pgcutover.toml:20: {expected}"]
    renamed = load_text(replaced(config, "[admin]", '[admin]\nname = "console"'))
    assert renamed.database("admin") is not None


def test_users_of_unknown_databases() -> None:
    users = USERS + (
        '[[users]]\nname = "bob"\ndatabase = "ap"\npassword = "b"\n'
        '[[users]]\nname = "bob"\ndatabase = "zzzzzz"\npassword = "b"\n'
        '[[users]]\nname = "bob"\ndatabase = "admin"\npassword = "b"\n'
    )
    assert problems(users=users) == [
        'users.toml:22: users.bob@ap.database: there is no database "ap" in [[databases]]; did you mean "app"?',
        'users.toml:26: users.bob@zzzzzz.database: there is no database "zzzzzz" in [[databases]]; '
        "there is: app, app_next",
        'users.toml:30: users.bob@admin.database: "admin" is the admin database; its user and password are in [admin]',
    ]


def test_a_user_given_twice() -> None:
    users = f'{USERS}[[users]]\nname = "alice"\ndatabase = "app"\npassword = "other"\n'
    assert problems(users=users) == [
        'users.toml:21: users.alice@app.name: user "alice" has two entries for "app"; the other one is at line 1'
    ]


def test_a_pair_of_unknown_databases() -> None:
    config = CONFIG.replace('destination = "app_next"', 'destination = "app_nxt"')
    assert problems(config) == [
        'pgcutover.toml:21: cutover.app.destination: there is no database "app_nxt" in [[databases]]; '
        'did you mean "app_next"?'
    ]


def test_a_pair_of_one_database() -> None:
    config = CONFIG.replace('destination = "app_next"', 'destination = "app"')
    assert problems(config) == [
        'pgcutover.toml:21: cutover.app.destination: is "app", as the source is; a move needs two databases'
    ]


@pytest.mark.parametrize("extra", ['database_name = "app"', "port = 5432"])
def test_a_pair_of_two_names_for_the_same_place(extra: str) -> None:
    config = CONFIG.replace('host = "10.0.0.9"', 'host = "10.0.0.5"').replace(
        'host = "10.0.0.5"\n', f'host = "10.0.0.5"\n{extra}\n', 1
    )
    assert problems(config) == [
        'pgcutover.toml:22: cutover.app.destination: "app" and "app_next" are the same database ("app" at '
        "10.0.0.5:5432); one of the two entries has the wrong address"
    ]


def test_two_pairs_that_share_a_database() -> None:
    config = (
        f'{CONFIG}\n[[databases]]\nname = "third"\nhost = "x"\n\n'
        '[[cutover]]\nsource = "third"\ndestination = "app_next"\nuser = "replicator"\n'
    )
    users = f'{USERS}[[users]]\nname = "replicator"\ndatabase = "third"\npassword = "r"\n'
    users += '[[users]]\nname = "alice"\ndatabase = "third"\npassword = "r"\n'
    assert problems(config, users) == [
        'pgcutover.toml:30: cutover.third.destination: the pairs "app" (line 19) and '
        '"third" (line 28) both use '
        'the database "app_next"; a database can be in one pair only'
    ]


# Users of a pair


def test_the_control_user_needs_an_entry_for_each_side() -> None:
    users = USERS.replace('[[users]]\nname = "replicator"\ndatabase = "app_next"\npassword = "r"\n', "")
    assert problems(users=users) == [
        'pgcutover.toml:22: cutover.app.user: "replicator" has no [[users]] entry for "app_next"; '
        "it needs one for each side of the pair"
    ]


VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"
MD5 = "md5" + "0" * 32


@pytest.mark.parametrize("stored", [VERIFIER, MD5])
def test_the_control_user_needs_a_password_that_can_log_in(stored: str) -> None:
    users = USERS.replace('password = "r"', f'password = "{stored}"', 1)
    assert problems(users=users) == [
        'users.toml:14: users.replicator@app.password: "replicator" moves "app" and logs in to its server, '
        "which a hashed password cannot do; give the plain one as server_password"
    ]
    load_text(users=users.replace(f'"{stored}"', f'"{stored}"\nserver_password = "plain"'))


def test_a_control_user_without_any_password_is_for_servers_that_trust() -> None:
    assert load_text(users=USERS.replace('password = "r"\n', "")).users[2].password is None


@pytest.mark.parametrize(("kept", "lost", "line"), [("app", "app_next", 3), ("app_next", "app", 3)])
def test_a_user_of_one_side_only_would_lose_access(kept: str, lost: str, line: int) -> None:
    users = USERS.replace(f'[[users]]\nname = "alice"\ndatabase = "{lost}"\npassword = "a"\n\n', "")
    assert problems(users=users) == [
        f'users.toml:{line}: users.alice@{kept}.database: user "alice" has "{kept}" but not '
        f'"{lost}": the names '
        f'change places at a cutover, so "alice" would lose access to "{kept}"; add a '
        f'[[users]] entry for "{lost}" '
        "with the login it is to use there"
    ]


def test_users_of_databases_outside_of_pairs_are_free() -> None:
    config = f'{CONFIG}[[databases]]\nname = "other"\nhost = "x"\n'
    users = f'{USERS}[[users]]\nname = "bob"\ndatabase = "other"\npassword = "b"\n'
    assert load_text(config, users).user("bob", "other") is not None


# How users log in


@pytest.mark.parametrize(
    ("auth_type", "stored", "expected"),
    [
        ("scram", None, 'is missing; with auth_type = "scram", "alice" could never log in without one'),
        ("md5", None, 'is missing; with auth_type = "md5", "alice" could never log in without one'),
        ("plain", None, 'is missing; with auth_type = "plain", "alice" could never log in without one'),
        (
            "scram",
            MD5,
            'is an md5 hash, of no use with auth_type = "scram"; give the plain one or a SCRAM verifier',
        ),
        ("trust", None, None),
        ("md5", MD5, None),
        ("md5", VERIFIER, None),
        ("plain", MD5, None),
        ("plain", VERIFIER, None),
        ("scram", VERIFIER, None),
        ("scram", "md5", None),
    ],
)
def test_stored_password_and_auth_type(auth_type: str, stored: str | None, expected: str | None) -> None:
    config = CONFIG.replace("port = 6432", f'port = 6432\nauth_type = "{auth_type}"')
    users = USERS.replace('password = "a"\n', f'password = "{stored}"\n' if stored else "", 1)
    if expected is None:
        load_text(config, users)
    else:
        line = 4 if stored else 1
        assert problems(config, users) == [f"users.toml:{line}: users.alice@app.password: {expected}"]


def test_a_verifier_as_server_password() -> None:
    users = USERS.replace('password = "a"', f'password = "a"\nserver_password = "{VERIFIER}"', 1)
    assert problems(users=users) == [
        "users.toml:5: users.alice@app.server_password: is a SCRAM verifier, which "
        "recognises a login and cannot "
        "make one; give the plain password"
    ]


def test_an_md5_hash_as_server_password_is_for_servers_that_ask_for_md5() -> None:
    line = f'server_password = "{MD5}"'
    load_text(users=USERS.replace('password = "a"', f'password = "a"\n{line}', 1))
    assert problems(users=USERS.replace('password = "r"', f'password = "r"\n{line}', 1)) == [
        'users.toml:15: users.replicator@app.server_password: "replicator" moves "app" and '
        "logs in to its server, "
        "which a hashed password cannot do; give the plain one as server_password"
    ]


# All at once, and nothing twice


def test_one_bad_key_does_not_hide_or_cause_other_problems() -> None:
    config = CONFIG.replace("port = 6432", 'port = "x"\nworkers = 3\nauth_type = "trus"')
    config = config.replace("port = 8432", "port = 6432").replace(
        'host = "10.0.0.9"', 'host = "10.0.0.5"\nport = "5433"'
    )
    users = USERS.replace('password = "a"\n', "", 1)
    assert [line.partition(": ")[2].partition(":")[0] for line in problems(config, users)] == [
        "general.port",
        "general.workers",
        "general.auth_type",
        "databases.app_next.port",
    ]


def test_problems_come_in_the_order_of_the_files() -> None:
    config = CONFIG.replace("port = 6432", "port = 0").replace('source = "app"', 'source = "appp"')
    users = USERS.replace('password = "a"', "password = 1")
    lines = [line.partition(": ")[0] for line in problems(config, users)]
    assert lines == ["pgcutover.toml:2", "pgcutover.toml:20", "users.toml:4", "users.toml:9"]


def test_carriage_returns_do_not_shift_lines() -> None:
    config = CONFIG.replace("port = 6432", "port = 0").replace("\n", "\r\n")
    assert problems(config)[0].startswith("pgcutover.toml:2: ")


@given(
    st.sampled_from([CONFIG, USERS]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 12), st.text(max_size=4)), min_size=1, max_size=3),
    st.booleans(),
)
def test_any_text_is_a_configuration_or_a_list_of_problems(
    text: str, cuts: list[tuple[int, int, str]], swap_files: bool
) -> None:
    for start, length, new in cuts:
        text = text[:start] + new + text[start + length :]
    config, users = (text, USERS) if swap_files else (CONFIG, text)
    for problem in _problems_of(config, users):
        assert 1 <= problem.line <= (config if problem.file == "c.toml" else users).count("\n") + 1


def _problems_of(config: str, users: str) -> tuple[Problem, ...]:
    try:
        load_texts("c.toml", config, "u.toml", users, {})
    except ConfigError as error:
        return error.problems or (Problem("no problem was named", 0, "", ""),)
    return ()


# For the console client


def test_the_console_needs_two_sections_only() -> None:
    Path("c.toml").write_text(
        '[general]\nport = 7000\ntls_certificate = "missing.crt"\n[admin]\npassword_env = "P"\n[zzz]\n'
    )
    general, admin = load_console("c.toml", {"P": "secret"})
    assert (general.port, admin.password.get_secret_value()) == (7000, "secret")
    with pytest.raises(ConfigError, match=r"c.toml:5: admin.password_env: the environment variable P is not set"):
        load_console("c.toml", {})
    with pytest.raises(ConfigError, match="there is no such file"):
        load_console("nope.toml", {})
    Path("c.toml").write_text("")
    with pytest.raises(ConfigError, match="the section is missing"):
        load_console("c.toml", {})


def test_another_name_for_a_side_of_a_pair_is_refused() -> None:
    database = '\n[[databases]]\nname = "side_door"\nhost = "10.0.0.5"\ndatabase_name = "app"\n'
    found = problems(CONFIG + database)
    assert len(found) == 1
    assert '"side_door" leads to the same database as "app"' in found[0]
