"""Values of other packages to rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from ..result import Columns, Row, Rows


def attribute_rows(described: Columns, items: Iterable[object]) -> Rows:
    """One row per item; each column is the attribute of its name."""
    return [_row(described, item) for item in items]


def _row(described: Columns, item: object) -> Row:
    return tuple(shortened(getattr(item, column.name)) for column in described)


def shortened(value: object) -> object:
    """Milliseconds and percents with three digits after the point; more would be noise."""
    return round(value, 3) if isinstance(value, float) else value


def utc_text(unix_seconds: float) -> str:
    """A time as PgBouncer's SHOW CLIENTS writes it."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
