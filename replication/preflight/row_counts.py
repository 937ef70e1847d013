"""Tables of the destination that seem to hold more rows than those of the source."""

from __future__ import annotations

from ..session import ControlSession
from .fragments import RELATIONS, nonempty_tables, users_relation
from .model import CheckContext, Finding, Severity

# Estimates of tables that change are a few percent off; nearer than this they say nothing.
_ESTIMATE_FACTOR = 1.2
_ESTIMATE_SLACK_ROWS = 1_000
# Counting reads the whole table; beyond this it is left to VERIFY.
_COUNT_LIMIT_ROWS = 2_000_000
_SAMPLES = 3


async def surplus_rows(context: CheckContext, names: list[str]) -> list[Finding]:
    """Findings of D08 for the tables `names`, which both sides have, while replication runs."""
    source_rows, destination_rows = [await _estimates(session) for session in context.both]
    empty = sorted(set(names) - set(await nonempty_tables(context.source, names)))
    unexpected = set(await nonempty_tables(context.destination, empty))
    findings: list[Finding] = []
    for name in names:
        here, there = source_rows.get(name, -1.0), destination_rows.get(name, -1.0)
        suspicious = here >= 0 and there > here * _ESTIMATE_FACTOR + _ESTIMATE_SLACK_ROWS
        if name not in unexpected and not suspicious:
            continue
        object_ = context.on(context.destination, name)
        if max(here, there) > _COUNT_LIMIT_ROWS:
            finding = f"about {there:,.0f} rows here, about {here:,.0f} on the source; too many to count now"
            findings.append(Finding("D08", Severity.WARN, object_, finding, "ANALYZE both, then VERIFY"))
        elif surplus := await _surplus(context, name):
            finding = f"{surplus:,} rows more than the source holds"
            remedy = "RESET, empty the destination and REPLICATE again"
            findings.append(Finding("D08", Severity.BLOCK, object_, finding, remedy))
    return findings


async def _surplus(context: CheckContext, name: str) -> int:
    """How many rows the destination has beyond the source; 0 unless every sample says so.

    It is counted between two counts of the source, since both sides change meanwhile. Deletes that have not
    arrived yet look like a surplus; they do so only for the time of the lag.
    """
    least: int | None = None
    for _ in range(_SAMPLES):
        before = await _count(context.source, name)
        there = await _count(context.destination, name)
        after = await _count(context.source, name)
        surplus = there - max(before, after)
        if surplus <= 0:
            return 0
        least = surplus if least is None else min(least, surplus)
        await context.source.fetchval("select pg_sleep(0.3)")
    return least or 0


async def _count(session: ControlSession, name: str) -> int:
    return int(await session.fetchval(f"select count(*) from only {name}"))


async def _estimates(session: ControlSession) -> dict[str, float]:
    """Rows as of the last VACUUM or ANALYZE; negative (14+) or 0 where there was none."""
    rows = await session.fetch(
        f"select c.oid::regclass::text as relation, c.reltuples from {RELATIONS}"
        f" where c.relkind = 'r' and {users_relation()}"
    )
    return {row["relation"]: float(row["reltuples"]) for row in rows}
