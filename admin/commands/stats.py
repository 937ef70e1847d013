"""SHOW STATS, STATS_TOTALS, STATS_AVERAGES, TOTALS: PgBouncer's columns. Times are microseconds.

Parse and Bind messages are not counted here, so those columns are NULL: unknown is not zero.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from proxy.views import StatsView

from ..result import Column, Columns, Row, Rows, Type, columns
from ..statement import Context, Statement, command, without_arguments

_FIELDS: Final[tuple[str | None, ...]] = (
    "server_assignment_count",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time_us",
    "query_time_us",
    "wait_time_us",
    None,
    None,
    None,
    "client_login_count",
)
"""What the twelve figures are read from, in PgBouncer's order; None is not counted."""

_PARSES: Final = ("client_parse_count", "server_parse_count", "bind_count")
_COUNTS: Final = ("server_assignment_count", "xact_count", "query_count")
_TIMES: Final = ("xact_time", "query_time", "wait_time")


def _prefixed(prefix: str, *names: str) -> tuple[str, ...]:
    return tuple(prefix + name for name in names)


_TOTAL_NAMES: Final = _prefixed("total_", *_COUNTS, "received", "sent", *_TIMES, *_PARSES, "client_login_count")
_AVERAGE_NAMES: Final = _prefixed("avg_", *_COUNTS, "recv", "sent", *_TIMES, *_PARSES, "client_login_count")
_ALL_NAMES: Final = (
    *_COUNTS,
    "client_bytes",
    "server_bytes",
    *_TIMES,
    *_prefixed("ps_", *_PARSES),
    "client_login_count",
)

_DATABASE: Final = Column("database", Type.TEXT)
STATS: Final[Columns] = (_DATABASE, *columns(Type.NUMERIC, *_TOTAL_NAMES, *_AVERAGE_NAMES))
STATS_TOTALS: Final[Columns] = (
    _DATABASE,
    *columns(Type.NUMERIC, *_COUNTS, "bytes_received", "bytes_sent", *_TIMES, *_PARSES, "client_login_count"),
)
STATS_AVERAGES: Final[Columns] = (
    _DATABASE,
    *columns(Type.NUMERIC, *_COUNTS, "bytes_received", "bytes_sent", *_TIMES),
    *columns(Type.NUMERIC, *_prefixed("avg_", *_PARSES, "client_login_count")),
)
TOTALS: Final[Columns] = (Column("name", Type.TEXT), Column("value", Type.NUMERIC))


def _figures(view: StatsView) -> Row:
    return [None if name is None else getattr(view, name) for name in _FIELDS]


def _sum(views: list[StatsView]) -> StatsView:
    counters = [field.name for field in fields(StatsView) if field.name != "database"]
    return StatsView(database="", **{name: sum(getattr(view, name) for view in views) for name in counters})


class ShowStats(Statement):
    tag = "SHOW"
    columns = STATS

    async def execute(self, context: Context) -> Rows:
        averages = context.services.averages.averages
        return [(view.database, *_figures(view), *_figures(averages(view))) for view in context.services.proxy.stats()]


class ShowStatsTotals(Statement):
    tag = "SHOW"
    columns = STATS_TOTALS

    async def execute(self, context: Context) -> Rows:
        return [(view.database, *_figures(view)) for view in context.services.proxy.stats()]


class ShowStatsAverages(Statement):
    tag = "SHOW"
    columns = STATS_AVERAGES

    async def execute(self, context: Context) -> Rows:
        averages = context.services.averages.averages
        return [(view.database, *_figures(averages(view))) for view in context.services.proxy.stats()]


class ShowTotals(Statement):
    tag = "SHOW"
    columns = TOTALS

    async def execute(self, context: Context) -> Rows:
        views = list(context.services.proxy.stats())
        return [
            *zip(_prefixed("total_", *_ALL_NAMES), _figures(_sum(views)), strict=True),
            *zip(
                _prefixed("avg_", *_ALL_NAMES),
                _figures(context.services.averages.overall(views)),
                strict=True,
            ),
        ]


COMMANDS: Final = (
    command("SHOW STATS", "counters and averages per database", without_arguments(ShowStats)),
    command("SHOW STATS_TOTALS", "counters per database since the start", without_arguments(ShowStatsTotals)),
    command(
        "SHOW STATS_AVERAGES",
        "averages per database over the last minute or two",
        without_arguments(ShowStatsAverages),
    ),
    command("SHOW TOTALS", "counters and averages of all databases together", without_arguments(ShowTotals)),
)
