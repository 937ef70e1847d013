"""What a move shows of itself: SHOW REPLICATION, TABLE_COPIES, CUTOVER, CUTOVER_HISTORY, NODES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cutover.api import RunReport

from ..result import Column, Columns, Row, Rows, Type, columns
from ..statement import Context, Statement, command, with_optional_name, without_arguments
from .rows import attribute_rows, shortened

REPLICATION: Final[Columns] = (
    *columns(Type.TEXT, "pair", "direction", "publication", "subscription", "slot"),
    Column("enabled", Type.BOOL),
    Column("state", Type.TEXT),
    *columns(Type.INT4, "tables_ready", "tables_total"),
    Column("lag_bytes", Type.INT8),
    *columns(Type.FLOAT8, "lag_ms", "heartbeat_age_ms"),
)
TABLE_COPIES: Final[Columns] = (
    *columns(Type.TEXT, "schema", "table", "state"),
    *columns(Type.INT8, "rows", "bytes", "bytes_total"),
    *columns(Type.FLOAT8, "percent", "bytes_per_sec", "eta_s"),
)
CUTOVER: Final[Columns] = (
    *columns(Type.TEXT, "pair", "serving", "other"),
    Column("epoch", Type.INT8),
    *columns(Type.TEXT, "phase", "run_id", "kind", "step"),
    Column("elapsed_ms", Type.FLOAT8),
    *columns(Type.TEXT, "waiting_for", "gate"),
)
HISTORY: Final[Columns] = (
    *columns(Type.TEXT, "id", "kind", "source", "destination", "outcome"),
    Column("epoch", Type.INT8),
    Column("started_at", Type.TIMESTAMPTZ),
    *columns(Type.FLOAT8, "total_ms", "pause_ms"),
    Column("clients_held", Type.INT4),
    *columns(Type.FLOAT8, "hold_p50_ms", "hold_p99_ms", "hold_max_ms"),
    *columns(Type.INT4, "transactions_waited", "sessions_closed"),
    Column("error", Type.TEXT),
)
NODES: Final[Columns] = (
    *columns(Type.TEXT, "node", "version", "config_hash"),
    Column("config_valid", Type.BOOL),
    Column("epoch", Type.INT8),
    Column("gate", Type.TEXT),
    Column("heartbeat_age_ms", Type.FLOAT8),
    Column("clients", Type.INT4),
)


@dataclass(frozen=True)
class ShowReplication(Statement):
    pair: str | None
    tag = "SHOW"
    columns = REPLICATION

    async def execute(self, context: Context) -> Rows:
        return attribute_rows(REPLICATION, await context.services.moves.replication(self.pair))


@dataclass(frozen=True)
class ShowTableCopies(Statement):
    pair: str | None
    tag = "SHOW"
    columns = TABLE_COPIES

    async def execute(self, context: Context) -> Rows:
        return attribute_rows(TABLE_COPIES, await context.services.moves.table_copies(self.pair))


@dataclass(frozen=True)
class ShowCutover(Statement):
    pair: str | None
    tag = "SHOW"
    columns = CUTOVER

    async def execute(self, context: Context) -> Rows:
        return attribute_rows(CUTOVER, await context.services.moves.cutover_state(self.pair))


@dataclass(frozen=True)
class ShowHistory(Statement):
    pair: str | None
    tag = "SHOW"
    columns = HISTORY

    async def execute(self, context: Context) -> Rows:
        return [_past_run(report) for report in await context.services.moves.history(self.pair)]


@dataclass(frozen=True)
class ShowNodes(Statement):
    tag = "SHOW"
    columns = NODES

    async def execute(self, context: Context) -> Rows:
        return attribute_rows(NODES, await context.services.moves.nodes())


def _past_run(report: RunReport) -> Row:
    values = {column.name: getattr(report, "run_id" if column.name == "id" else column.name) for column in HISTORY}
    return [shortened(value) for value in values.values()]


COMMANDS: Final = (
    command(
        "SHOW CUTOVER [pair]",
        "where each pair stands, the step of a run, who is waited for",
        with_optional_name(ShowCutover),
    ),
    command("SHOW CUTOVER_HISTORY [pair]", "past runs with their figures", with_optional_name(ShowHistory)),
    command(
        "SHOW REPLICATION [pair]",
        "streams of a move: state, lag in bytes and milliseconds",
        with_optional_name(ShowReplication),
    ),
    command("SHOW TABLE_COPIES [pair]", "the initial copy, table by table", with_optional_name(ShowTableCopies)),
    command("SHOW NODES", "every node: version, configuration, epoch, gate, clients", without_arguments(ShowNodes)),
)
