"""Logs: structlog to stderr, on a console or as JSON, with one processor that keeps secrets out.

Events are short words with values (`log.info("run committed", pair="app", pause_ms=12.3)`). Lines of the
standard library's logging (asyncio, asyncpg) come out the same way.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
NOT_LOGGED = "[not logged]"

_SECRET_KEY = re.compile(
    r"(?:^|_)pass(?:word|wd|phrase)?$|secret|verifier|credential|token|private_?key|conninfo|dsn",
    re.IGNORECASE,
)
_QUERY_KEYS = frozenset({"query", "query_text", "sql", "statement", "parameters", "params", "bind"})
# A password inside a longer text: key=value with libpq's quoting, JSON or a repr, and the form of a URI.
_SECRET_TEXT = re.compile(
    r"""(pass(?:word|wd)(?:\s*=|["']\s*:)\s*)('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s'",;)}]+)""",
    re.IGNORECASE,
)
_SECRET_URI = re.compile(r"(\w+://[^\s:/@]+:)[^\s@]+(?=@)")


def configure(level: str = "info", log_format: str = "console", *, stream: TextIO | None = None) -> None:
    """Set up logging for the process. Can be called again: a RELOAD changes level and format of all loggers.

    `level` and `log_format` are those of [general]; `stream` is stderr where it is not given.
    """
    target = stream if stream is not None else sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Redaction comes after exceptions have become text, so that it sees everything that is written.
    final: list[Processor] = [structlog.processors.format_exc_info, redact, _renderer(log_format, target)]
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        # Loggers that were made before a RELOAD follow it.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask what looks like a secret by its key or inside a text, at any depth, and leave query texts out."""
    return {key: _clean(key, value) for key, value in event.items()}


def _renderer(log_format: str, target: TextIO) -> Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
    colors = target.isatty()
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def _clean(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value  # a count or a flag, whatever its name
    if key.lower() in _QUERY_KEYS:
        return NOT_LOGGED
    return MASK if _SECRET_KEY.search(key) else _clean_value(value)


def _clean_value(value: Any) -> Any:
    match value:
        case str():
            return clean_text(value)
        case BaseException():
            return clean_text(f"{type(value).__name__}: {value}")
        case Mapping():
            return {inner: _clean(str(inner), item) for inner, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_clean_value(item) for item in value]
        case bytes() | bytearray() | memoryview():
            # Bytes are traffic, and traffic is query texts.
            return f"[{len(value)} bytes]"
        case _:
            return value


def clean_text(text: str) -> str:
    """`text` with the passwords in connection strings and URIs masked."""
    return _SECRET_URI.sub(rf"\1{MASK}", _SECRET_TEXT.sub(rf"\1{MASK}", text))
