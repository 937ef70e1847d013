"""Logs: what is written, in which form, and what never is."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from daemon.logging import MASK, NOT_LOGGED, clean_text, configure, redact


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _configured(level: str = "info", log_format: str = "json") -> io.StringIO:
    stream = io.StringIO()
    configure(level, log_format, stream=stream)
    return stream


def _events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines() -> None:
    stream = _configured()
    structlog.get_logger().info("run committed", pair="app", pause_ms=12.5, epoch=3)
    [event] = _events(stream)
    timestamp = event.pop("timestamp")
    assert event == {"event": "run committed", "level": "info", "pair": "app", "pause_ms": 12.5, "epoch": 3}
    assert timestamp.endswith("Z")


def test_console_lines_have_no_colours_on_a_pipe() -> None:
    stream = _configured(log_format="console")
    structlog.get_logger().warning("link lost", database="app")
    assert "\x1b" not in stream.getvalue()
    assert "[warning  ] link lost" in stream.getvalue()
    assert "database=app" in stream.getvalue()


def test_the_level_counts_and_a_reload_changes_it_for_loggers_that_are_there() -> None:
    logger = structlog.get_logger()
    stream = _configured("warning")
    logger.info("too quiet")
    logging.getLogger("asyncio").info("too quiet")
    assert stream.getvalue() == ""
    stream = _configured("debug")
    logger.debug("now")
    logging.getLogger("asyncio").debug("and now")
    assert [event["event"] for event in _events(stream)] == ["now", "and now"]


def test_lines_of_the_standard_library_look_the_same() -> None:
    stream = _configured()
    logging.getLogger("asyncio").warning("slow callback: %s", "password=hunter2")
    [event] = _events(stream)
    assert (event["event"], event["level"], event["logger"]) == (
        f"slow callback: password={MASK}",
        "warning",
        "asyncio",
    )


def test_a_traceback_is_cleaned_too() -> None:
    stream = _configured()
    try:
        raise ValueError("cannot use host=h password='hunter 2'")
    except ValueError as error:
        structlog.get_logger().exception("failed", error=error)
    assert "hunter" not in stream.getvalue()
    [event] = _events(stream)
    assert event["error"] == f"ValueError: cannot use host=h password={MASK}"
    assert "Traceback (most recent call last)" in event["exception"]


SECRET_KEYS = [
    *("password", "server_password", "PASSWORD", "passwd", "pass", "admin_pass", "passphrase", "secret"),
    *("client_secret", "scram_verifier", "credentials", "token", "private_key", "conninfo", "dsn"),
]


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_secrets_by_their_key(key: str) -> None:
    assert redact(None, "info", {"event": "x", key: "hunter2"})[key] == MASK
    nested = redact(None, "info", {"config": {"deep": [{key: "hunter2"}]}})
    assert nested == {"config": {"deep": [{key: MASK}]}}
    assert redact(None, "info", {key: None})[key] is None


@pytest.mark.parametrize("key", ["query", "SQL", "statement", "query_text", "parameters", "params"])
def test_query_texts_are_left_out(key: str) -> None:
    assert redact(None, "info", {key: "SELECT secret FROM t"})[key] == NOT_LOGGED


@pytest.mark.parametrize(
    ("key", "value"),
    [("bypass", "x"), ("tokens", 5), ("queries", 7), ("query", 7), ("event", "passed"), ("user", "a")],
)
def test_the_rest_stays(key: str, value: object) -> None:
    assert redact(None, "info", {key: value})[key] == value


def test_bytes_are_traffic() -> None:
    assert redact(None, "info", {"data": b"SELECT 1"})["data"] == "[8 bytes]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host=h password=hunter2 port=1", f"host=h password={MASK} port=1"),
        ("host=h password='it\\'s hunter2' port=1", f"host=h password={MASK} port=1"),
        ('{"password": "hunter2", "a": 1}', f'{{"password": {MASK}, "a": 1}}'),
        ("{'password': 'hunter2'}", f"{{'password': {MASK}}}"),
        ("postgresql://user:hunter2@host/db", f"postgresql://user:{MASK}@host/db"),
        ('password authentication failed for user "a"', 'password authentication failed for user "a"'),
        ("password: wrong length", "password: wrong length"),
    ],
)
def test_secrets_inside_texts(text: str, expected: str) -> None:
    assert clean_text(text) == expected


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _values), st.sampled_from(SECRET_KEYS))
def test_no_event_breaks_it(event: dict[str, Any], key: str) -> None:
    assert set(redact(None, "info", dict(event))) == set(event)
    assert "hunter2" not in repr(redact(None, "info", {**event, key: "hunter2"}))
