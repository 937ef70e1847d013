"""Saving a swap: the meaning, the layout, and every way in which it can fail."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config import save
from config.edit import swap_config_text, swap_users_text
from config.load import load, load_texts
from config.model import Config
from config.save import SaveResult, save_swapped

CONFIG = """\
# The proxy of the shop.
[general]
port = 6432   # well known

[admin]
password_env = "ADMIN"

# the old server
[[databases]]
name = "app"        # what the shop asks for
host = "10.0.0.5"

# another one, which does not move
[[databases]]
name = "stats"
host = "10.0.0.7"

[[cutover]]
source = "app"
destination = "app_next"
user = "replicator"
source_replication_host = "old.internal"   # as the new server sees it
source_replication_port = 5433

# the new server
[[databases]]
  name = 'app_next'
  host = "10.0.0.9"
  database_name = "shop"
"""

SWAPPED_CONFIG = """\
# The proxy of the shop.
[general]
port = 6432   # well known

[admin]
password_env = "ADMIN"

# the old server
[[databases]]
name = "app_next"        # what the shop asks for
database_name = "app"
host = "10.0.0.5"

# another one, which does not move
[[databases]]
name = "stats"
host = "10.0.0.7"

[[cutover]]
source = "app"
destination = "app_next"
user = "replicator"
destination_replication_host = "old.internal"   # as the new server sees it
destination_replication_port = 5433

# the new server
[[databases]]
  name = "app"
  host = "10.0.0.9"
  database_name = "shop"
"""

USERS = """\
# who is who
[[users]]
name = "alice"  # of the shop
database = "app"
password = "a"

[[users]]
database = "app_next"
name = "alice"
password = "b"

[[users]]
name = "alice"
database = "stats"
password = "c"
[[users]]
name = "replicator"
database = "app"
password = "r"
[[users]]
name = "replicator"
database = "app_next"
password = "r"
"""

SWAPPED_USERS = (
    USERS.replace('database = "app"', "@")
    .replace('database = "app_next"', 'database = "app"')
    .replace("@", 'database = "app_next"')
)
ENVIRON = {"ADMIN": "secret"}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    config, users = tmp_path / "pgcutover.toml", tmp_path / "users.toml"
    config.write_text(CONFIG, newline="")
    users.write_text(USERS, newline="")
    return config, users


def _save(files: tuple[Path, Path], running: Config | None = None) -> SaveResult:
    return save_swapped(*files, "app", "app_next", running=running, environ=ENVIRON)


def _untouched(files: tuple[Path, Path]) -> bool:
    """Both files as they were, and nothing half-written beside them."""
    beside = {entry.name for entry in files[0].parent.iterdir()} - {"pgcutover.bak.toml", "users.bak.toml"}
    return (files[0].read_text(), files[1].read_text(), beside) == (
        CONFIG,
        USERS,
        {"pgcutover.toml", "users.toml"},
    )


def test_names_change_places_and_nothing_else_changes(files: tuple[Path, Path]) -> None:
    before = load(*files, ENVIRON)
    result = _save(files, before.swapped("app", "app_next"))
    assert result == SaveResult(
        saved=True,
        written=(str(files[0]), str(files[1])),
        backups=tuple(str(file.with_suffix(".bak.toml")) for file in files),
    )
    assert files[0].read_text() == SWAPPED_CONFIG
    assert files[1].read_text() == SWAPPED_USERS
    assert load(*files, ENVIRON) == before.swapped("app", "app_next")
    assert files[0].with_name("pgcutover.bak.toml").read_text() == CONFIG
    assert files[1].with_name("users.bak.toml").read_text() == USERS


def test_a_revert_leads_back(files: tuple[Path, Path]) -> None:
    before = load(*files, ENVIRON)
    after = before.swapped("app", "app_next")
    assert _save(files, after).written
    assert _save(files, after.swapped("app", "app_next")).written
    assert load(*files, ENVIRON) == before.swapped("app", "app_next").swapped("app", "app_next")
    assert files[1].read_text() == USERS
    # The name that follows the key is pinned once and stays.
    assert files[0].read_text() == CONFIG.replace("asks for\n", 'asks for\ndatabase_name = "app"\n').replace(
        "'app_next'", '"app_next"'
    )


def test_mode_and_owner_stay(files: tuple[Path, Path]) -> None:
    files[1].chmod(0o640)
    if os.geteuid() == 0:
        os.chown(files[1], 1234, 2345)
    before = files[1].stat()
    assert _save(files).warnings == ()
    for path in (files[1], files[1].with_name("users.bak.toml")):
        after = path.stat()
        assert stat.S_IMODE(after.st_mode) == 0o640
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


def test_a_symbolic_link_stays_a_link(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "config.toml"
    link.symlink_to(files[0])
    assert save_swapped(link, files[1], "app", "app_next", environ=ENVIRON).saved
    assert link.is_symlink()
    assert files[0].read_text() == SWAPPED_CONFIG


def test_backups_do_not_overwrite_each_other(files: tuple[Path, Path]) -> None:
    users = files[1].rename(files[1].with_name("pgcutover.users"))
    result = save_swapped(files[0], users, "app", "app_next", environ=ENVIRON)
    assert [Path(path).name for path in result.backups] == [
        "pgcutover.toml.bak.toml",
        "pgcutover.users.bak.toml",
    ]
    assert Path(result.backups[1]).read_text() == USERS


# When not to write


def test_files_that_show_the_swap_already_are_left_alone(files: tuple[Path, Path]) -> None:
    after = load(*files, ENVIRON).swapped("app", "app_next")
    assert _save(files, after).written
    assert _save(files, after) == SaveResult(saved=True)
    assert files[0].read_text() == SWAPPED_CONFIG


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            '"10.0.0.9"',
            '"10.0.0.8"',
            '"app_next" is 10.0.0.9:5432/shop in the file and was 10.0.0.8:5432/shop',
        ),
        ('"shop"', '"market"', '"app_next" is 10.0.0.9:5432/shop in the file and was 10.0.0.9:5432/market'),
    ],
)
def test_files_edited_in_the_meantime_are_left_alone(files: tuple[Path, Path], old: str, new: str, reason: str) -> None:
    running = load_texts(*_names(CONFIG.replace(old, new), USERS), ENVIRON)
    result = _save(files, running.swapped("app", "app_next"))
    assert not result.saved
    assert result.warnings == (
        f"the swap was not saved: the files were edited and not reloaded: {reason} in the daemon; "
        'exchange the names "app" and "app_next" in both files yourself',
    )
    assert _untouched(files)


def test_users_edited_in_the_meantime(files: tuple[Path, Path]) -> None:
    running = load_texts(*_names(CONFIG, USERS.replace('"alice"', '"alicia"')), ENVIRON)
    [warning] = _save(files, running.swapped("app", "app_next")).warnings
    assert 'the users of "app" and "app_next" in the file are not those of the daemon' in warning
    assert _untouched(files)


def test_edits_that_do_not_touch_the_names_do_not_matter(files: tuple[Path, Path]) -> None:
    running = load_texts(*_names(CONFIG.replace("6432", "6433"), USERS.replace('"a"', '"x"')), ENVIRON)
    assert _save(files, running.swapped("app", "app_next")).written


def test_a_database_that_is_gone_from_the_file(files: tuple[Path, Path]) -> None:
    result = save_swapped(*files, "app", "gone", environ=ENVIRON)
    assert 'the file has no database "gone" any more' in result.warnings[0]
    assert _untouched(files)


def test_files_with_problems_are_left_alone(files: tuple[Path, Path]) -> None:
    result = save_swapped(*files, "app", "app_next", environ={})
    assert "admin.password_env: the environment variable ADMIN is not set" in result.warnings[0]
    assert _untouched(files)


def test_a_missing_file_is_a_warning(tmp_path: Path) -> None:
    result = save_swapped(tmp_path / "a.toml", tmp_path / "b.toml", "app", "app_next")
    assert not result.saved
    assert "a.toml: there is no such file" in result.warnings[0]


def test_a_file_changed_while_it_is_being_saved(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = save._prepare

    def edit_meanwhile(file: save._File, target: Path, text: str, warnings: list[str]) -> str:
        files[1].write_text(USERS + "# a late thought\n")
        return prepare(file, target, text, warnings)

    monkeypatch.setattr(save, "_prepare", edit_meanwhile)
    assert "users.toml was changed by somebody else just now" in _save(files).warnings[0]
    assert files[0].read_text() == CONFIG
    assert files[1].read_text() == USERS + "# a late thought\n"


# The disk says no


@pytest.mark.parametrize("failing", range(1, 9))
@pytest.mark.parametrize("call", ["replace", "fsync", "fchmod"])
def test_a_failing_disk_is_a_warning_and_both_files_agree(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, call: str, failing: int
) -> None:
    """The n-th call fails, for every n that occurs and some that do not."""
    real: Callable[..., object] = getattr(os, call)
    count = 0

    def fail(*args: object, **kwargs: object) -> object:
        nonlocal count
        count += 1
        if count == failing:
            raise OSError(30, "Read-only file system", "somewhere")
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, fail)
    result = _save(files)
    if result.saved:
        assert (files[0].read_text(), files[1].read_text()) == (SWAPPED_CONFIG, SWAPPED_USERS)
        assert result.warnings == () or "may not survive a power failure" in result.warnings[0]
    else:
        assert "Read-only file system" in result.warnings[0]
        assert _untouched(files)
    assert result.saved or count >= failing


def test_half_a_rename_that_cannot_be_undone_is_told(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def fail(source: str, target: Path) -> None:
        if target.name == "users.toml" or (target == files[0] and files[0].read_text() != CONFIG):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    result = _save(files)
    assert not result.saved
    assert result.warnings[0] == (
        f"the swap was not saved: {files[0]} shows the swap and {files[1]} does not (No "
        f"space left on device), "
        f"which could not be undone (No space left on device): copy "
        f"{files[0].with_name('pgcutover.bak.toml')} over "
        f'{files[0]}; exchange the names "app" and "app_next" in both files yourself'
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another owner")
def test_an_owner_that_cannot_be_kept_is_told(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(files[0], 1234, 2345)

    def refuse(descriptor: int, uid: int, gid: int) -> None:
        if (uid, gid) != (0, 0):
            raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    result = _save(files)
    assert result.saved
    assert result.warnings == (f"{files[0]} changed its owner: only root could have kept it",)


# Any layout


def _names(config: str, users: str) -> tuple[str, str, str, str]:
    return "pgcutover.toml", config, "users.toml", users


_quotes: st.SearchStrategy[Callable[[str], str]] = st.sampled_from(
    [
        lambda text: f'"{text}"',
        lambda text: f"'{text}'",
        lambda text: f'"""{text}"""',
        lambda text: f"'''{text}'''",
        lambda text: '"' + "".join(f"\\u{ord(char):04x}" for char in text) + '"',
    ]
)
_comments = st.sampled_from(["", "  # app", ' # "app_next" ] }', "\t# [[databases]]"])
_gaps = st.sampled_from(["", "\n", "# app = app_next\n", "\n# [[users]]\n\n"])
_key_quotes = st.sampled_from(["{}", '"{}"', "'{}'", " {} "])
_names_of_databases = st.sampled_from([("app", "app_next"), ("a.b", "c d"), ('quo"te', "ü"), ("x", "back\\slash")])


@st.composite
def _table(draw: st.DrawFn, section: str, keys: list[tuple[str, str | int]], *, inline: bool) -> str:
    """One entry with its keys in any order, as a table or in braces."""
    pairs = []
    for key, value in draw(st.permutations(keys)):
        if isinstance(value, int):
            written = str(value)
        elif '"' in value or "\\" in value:
            written = f"'{value}'"
        else:
            written = draw(_quotes)(value)
        pairs.append(f"{draw(_key_quotes).format(key)}{draw(st.sampled_from(['=', ' = ']))}{written}")
    if inline:
        return "{" + ", ".join(pairs) + "}"
    indent = draw(st.sampled_from(["", "  ", "\t"]))
    lines = [f"[[ {section} ]]{draw(_comments)}\n"]
    lines += [f"{indent}{pair}{draw(_comments)}\n{draw(_gaps)}" for pair in pairs]
    return "".join(lines)


@st.composite
def _section(draw: st.DrawFn, section: str, entries: list[list[tuple[str, str | int]]]) -> tuple[bool, list[str]]:
    inline = draw(st.booleans())
    return inline, [draw(_table(section, entry, inline=inline)) for entry in entries]


@st.composite
def _layouts(draw: st.DrawFn) -> tuple[str, str, str, str]:
    """Both files in some layout, and the names of the pair."""
    one, other = draw(_names_of_databases)
    databases: list[list[tuple[str, str | int]]] = [
        [("name", one), ("host", "h")],
        [("name", other), ("host", "g")],
    ]
    for database in databases:
        if draw(st.booleans()):
            database.append(("database_name", draw(st.sampled_from([one, other, "elsewhere"]))))
    databases.append([("name", "stats"), ("host", "h"), ("port", 5499)])
    pair: list[tuple[str, str | int]] = [("source", one), ("destination", other), ("user", "r")]
    addresses: list[tuple[str, str | int]] = [
        ("source_replication_host", "s"),
        ("source_replication_port", 1),
        ("destination_replication_host", "d"),
        ("destination_replication_port", 2),
    ]
    pair += [address for address in addresses if draw(st.booleans())]
    users: list[list[tuple[str, str | int]]] = [
        [("name", name), ("database", database), ("password", f"{name}-{number}")]
        for name in ("r", "alice")
        for number, database in enumerate([one, other, "stats"])
    ]
    first, rest = ["admin.password = 'x'\n"], []
    for section, entries in (("databases", databases), ("cutover", [pair])):
        inline, texts = draw(_section(section, entries))
        if inline:
            separator = draw(st.sampled_from([", ", ",\n  ", ", # app\n"]))
            first.append(f"{section} = [{separator[2:]}\n{separator.join(texts)}]{draw(_comments)}\n")
        else:
            rest += texts
    config = "".join(draw(st.permutations(first))) + "".join(draw(st.permutations(rest)))
    inline, texts = draw(_section("users", users))
    users_text = f"users = [{', '.join(texts)}]\n" if inline else "".join(texts)
    if draw(st.booleans()):
        config, users_text = config.rstrip("\n"), users_text.rstrip("\n")
    if draw(st.booleans()):
        config, users_text = config.replace("\n", "\r\n"), users_text.replace("\n", "\r\n")
    return config, users_text, one, other


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(_layouts())
def test_any_layout_means_the_swap_and_keeps_every_comment(layout: tuple[str, str, str, str]) -> None:
    config, users, one, other = layout
    before = load_texts(*_names(config, users), {})
    swapped = swap_config_text(config, one, other), swap_users_text(users, one, other)
    assert load_texts(*_names(*swapped), {}) == before.swapped(one, other)
    for old, new in zip((config, users), swapped, strict=True):
        pinned = new.count("\n") - old.count("\n")
        assert 0 <= pinned <= 2
        assert new.count("#") == old.count("#")
        assert ("\r\n" in old) == ("\r\n" in new)
        assert new.count("\r\n") == (new.count("\n") if "\r\n" in old else 0)
    back = swap_config_text(swapped[0], one, other), swap_users_text(swapped[1], one, other)
    assert load_texts(*_names(*back), {}) == before.swapped(one, other).swapped(one, other)
