"""What a RELOAD changes, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from config.model import Admin, Config, CutoverPair, Database, General, Http, Replication, User
from config.reload import Change, difference, reloadable

BASE = Config(
    admin=Admin(password=SecretStr("admin-secret")),
    http=Http(),
    databases=(Database(name="app", host="h"), Database(name="next", host="g")),
    cutover=(CutoverPair(source="app", destination="next", user="r"),),
    users=(
        User(name="r", database="app", password=SecretStr("user-secret")),
        User(name="r", database="next", password=SecretStr("user-secret")),
    ),
)


def _with(section: str, **values: Any) -> Config:
    return BASE.model_copy(update={section: getattr(BASE, section).model_copy(update=values)})


def test_no_difference() -> None:
    assert difference(BASE, BASE) == []
    assert reloadable(BASE, BASE) == []


@pytest.mark.parametrize(
    ("section", "values", "change"),
    [
        ("general", {"port": 6433}, Change("general.port", "6432", "6433", "restart")),
        ("general", {"host": "::"}, Change("general.host", '"0.0.0.0"', '"::"', "restart")),
        ("general", {"workers": 2}, Change("general.workers", "1", "2", "restart")),
        ("general", {"query_timeout": 5}, Change("general.query_timeout", "0", "5", "live")),
        ("general", {"tls_certificate": "/x"}, Change("general.tls_certificate", None, '"/x"', "live")),
        (
            "general",
            {"cutover_save_config": True},
            Change("general.cutover_save_config", "false", "true", "live"),
        ),
        ("admin", {"name": "console"}, Change("admin.name", '"admin"', '"console"', "restart")),
        ("admin", {"password": SecretStr("new-secret")}, Change("admin.password", "***", "***", "live")),
        ("http", {"port": 8433}, Change("http.port", "8432", "8433", "restart")),
        ("replication", {"copy_jobs": 2}, Change("replication.copy_jobs", "4", "2", "live")),
    ],
)
def test_one_setting(section: str, values: dict[str, Any], change: Change) -> None:
    new = _with(section, **values)
    assert difference(BASE, new) == [change]
    assert [problem.key for problem in reloadable(BASE, new)] == ([change.key] if change.effect == "restart" else [])


def test_http_that_comes_or_goes_needs_a_restart() -> None:
    without = BASE.model_copy(update={"http": None})
    assert [str(change) for change in difference(BASE, without)] == [
        'http.host: "127.0.0.1" -> not set',
        "http.port: 8432 -> not set",
    ]
    assert [problem.key for problem in reloadable(without, BASE)] == ["http.host", "http.port"]


def test_the_refusal_says_both_values_and_what_to_do() -> None:
    [problem] = reloadable(BASE, _with("general", port=6433), "etc/pgcutover.toml")
    assert str(problem) == (
        "etc/pgcutover.toml: general.port: is 6432 in the running daemon and 6433 in the "
        "file; it changes at a "
        "restart only, so nothing was reloaded: undo the edit, or restart"
    )


def test_entries_that_come_go_and_change() -> None:
    new = BASE.model_copy(
        update={
            "databases": (
                Database(name="app", host="h", pool_size=5),
                Database(name="third", host="t", port=5433),
            ),
            "cutover": (),
            "users": (BASE.users[0], User(name="bob", database="third", password=SecretStr("bob-secret"))),
        }
    )
    assert difference(BASE, new) == [
        Change("databases.app.pool_size", None, "5", "live"),
        Change("databases.next", 'name = "next", host = "g"', None, "live"),
        Change("databases.third", None, 'name = "third", host = "t", port = 5433', "live"),
        Change("cutover.app", 'source = "app", destination = "next", user = "r"', None, "live"),
        Change("users.r@next", 'name = "r", database = "next", password = ***', None, "live"),
        Change("users.bob@third", None, 'name = "bob", database = "third", password = ***', "live"),
    ]
    assert reloadable(BASE, new) == []


def test_the_order_of_entries_means_nothing() -> None:
    new = BASE.model_copy(update={"databases": BASE.databases[::-1], "users": BASE.users[::-1]})
    assert difference(BASE, new) == []


def test_no_secret_is_shown() -> None:
    new = BASE.model_copy(
        update={
            "admin": Admin(password=SecretStr("new-secret")),
            "users": (User(name="r", database="app", server_password=SecretStr("other-secret")),),
        }
    )
    assert "secret" not in repr(difference(BASE, new))
    assert "secret" not in repr(difference(new, BASE))


def test_a_swap_shows_where_the_names_lead() -> None:
    changes = difference(BASE, BASE.swapped("app", "next"))
    assert Change("databases.app.host", '"h"', '"g"', "live") in changes
    assert Change("databases.next.host", '"g"', '"h"', "live") in changes


def test_every_key_of_the_model_is_compared() -> None:
    """A key that nobody compares would be reloaded in silence, or not at all."""
    for section, model in (
        ("general", General),
        ("admin", Admin),
        ("http", Http),
        ("replication", Replication),
    ):
        for key in model.model_fields:
            changed = _with(section, **{key: "something else"})
            assert [change.key for change in difference(BASE, changed)] == [f"{section}.{key}"]
