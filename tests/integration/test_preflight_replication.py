"""Checks of publication, subscription, slot and lag, on a stream that really runs."""

from __future__ import annotations

import dataclasses

import pytest

from replication.preflight import CheckContext, ErrorBaseline, Finding, Phase, Severity
from replication.preflight.replication_state import read_error_baseline
from tests.support.databases import Pair
from tests.support.preflight import (
    PUBLICATION,
    SUBSCRIPTION,
    blocks,
    check,
    make_context,
    replicating_context,
    subscription_slot,
)
from tests.support.wait import eventually

BLOCK, WARN, INFO = Severity.BLOCK, Severity.WARN, Severity.INFO

_SCHEMA = "create table t (id int primary key, v text); create table u (id int primary key);"


async def _stream(pair: Pair) -> CheckContext:
    return await replicating_context(pair, schema=_SCHEMA, rows="insert into t values (1, 'a')")


def _brief(findings: list[Finding]) -> list[tuple[Severity, str]]:
    return [(finding.severity, finding.object) for finding in findings]


async def _published(pair: Pair, publication: str) -> CheckContext:
    await pair.both_sql(_SCHEMA)
    await pair.source_sql(publication)
    return await make_context(pair, Phase.ARM, publication=PUBLICATION)


async def test_t04_tables_that_the_publication_leaves_out(pair: Pair) -> None:
    context = await _published(pair, f"create publication {PUBLICATION} for table t")
    assert _brief(await check(context, "T04")) == [(BLOCK, "source: public.u")]
    await pair.source_sql(f"alter publication {PUBLICATION} add table u")
    assert await check(context, "T04") == []
    assert await check(dataclasses.replace(context, publication=None), "T04") == []


async def test_t04_partitions_count_with_their_parent(pair: Pair) -> None:
    context = await _published(
        pair,
        "create table p (a int primary key) partition by list (a);"
        "create table p1 partition of p for values in (1);"
        f"create publication {PUBLICATION} for table t, u, p with (publish_via_partition_root)",
    )
    assert await check(context, "T04") == []


async def test_t04_a_publication_that_is_not_there(pair: Pair) -> None:
    context = await make_context(pair, publication="nothing")
    assert _brief(await check(context, "T04")) == [(BLOCK, "source: nothing")]


async def test_t04_an_adopted_subscription_may_take_several_publications(pair: Pair) -> None:
    await pair.both_sql(_SCHEMA)
    await pair.source_sql("create publication one for table t; create publication two for table u")
    await pair.destination_sql(
        "create subscription adopted connection 'host=nowhere' publication one, two with (connect = false)"
    )
    context = await make_context(pair, Phase.ARM, publication="one", subscription="adopted")
    assert await check(context, "T04", "T05", "T06") == []
    await pair.source_sql("alter publication two set (publish = 'insert')")
    await pair.source_sql("alter publication one drop table t")
    findings = await check(context, "T04", "T05")
    assert _brief(findings)[0] == (BLOCK, "source: public.t")
    assert set(_brief(findings)[1:]) == {(BLOCK, "source: two")}


async def test_t05_operations_that_are_left_out(pair: Pair) -> None:
    context = await _published(
        pair, f"create publication {PUBLICATION} for all tables with (publish = 'insert, update')"
    )
    findings = await check(context, "T05")
    assert _brief(findings) == [(BLOCK, "source: pub")] * 2
    assert {f.finding.split()[-1] for f in findings} == {"DELETE", "TRUNCATE"}


async def test_t06_row_filters_and_column_lists(pair: Pair) -> None:
    context = await _published(pair, f"create publication {PUBLICATION} for table t (id), u where (id > 5)")
    findings = await check(context, "T06")
    assert _brief(findings) == [(BLOCK, "source: public.t"), (BLOCK, "source: public.u")]
    assert "not v" in findings[0].finding
    # A column that the destination lacks is left out on purpose: a changed schema on its way back.
    await pair.destination_sql("alter table t drop column v")
    assert _brief(await check(context, "T06")) == [(BLOCK, "source: public.u")]


async def test_t07a_partitions_do_not_matter_when_published_by_their_root(pair: Pair) -> None:
    parent = "create table p (a int primary key) partition by list (a);"
    await pair.source_sql(parent + "create table p1 partition of p for values in (1)")
    await pair.destination_sql(parent)
    await pair.source_sql(f"create publication {PUBLICATION} for table p with (publish_via_partition_root)")
    context = await make_context(pair)
    assert _brief(await check(context, "T07a")) == [(BLOCK, "destination: public.p1")]
    assert await check(dataclasses.replace(context, publication=PUBLICATION), "T07a") == []


async def test_p05a_tables_that_are_not_in_sync(pair: Pair) -> None:
    context = await _stream(pair)
    assert await check(context, "P05a") == []
    await pair.both_sql("create table later (id int primary key)")
    findings = await check(context, "P05a")
    assert _brief(findings) == [(BLOCK, "destination: public.later")]
    assert "does not take it" in findings[0].finding

    # A row that is there already keeps the copy from ending.
    await pair.destination_sql("insert into later values (1)")
    await pair.source_sql("insert into later values (1)")
    await pair.destination_sql(f"alter subscription {SUBSCRIPTION} refresh publication")
    findings = await check(context, "P05a")
    assert _brief(findings) == [(BLOCK, "destination: public.later")]
    assert "not in sync yet" in findings[0].finding


async def test_p05b_a_disabled_subscription_and_none_at_all(pair: Pair) -> None:
    context = await _stream(pair)
    assert await check(context, "P05b") == []
    await pair.destination_sql(f"alter subscription {SUBSCRIPTION} disable")
    (finding,) = await check(context, "P05b")
    assert (finding.severity, finding.finding) == (BLOCK, "the subscription is disabled")
    (finding,) = await check(dataclasses.replace(context, subscription="other"), "P05b")
    assert "not set up" in finding.finding


async def test_p05b_a_worker_that_is_not_running(pair: Pair) -> None:
    context = await _stream(pair)
    wrong = pair.source.replication_conninfo().replace(f"'{pair.source.port}'", "'1'").replace("'", "''")
    await pair.destination_sql(f"alter subscription {SUBSCRIPTION} connection '{wrong}'")

    async def reported() -> list[Finding]:
        return blocks(await check(context, "P05b"))

    (finding,) = await eventually(reported, "the worker to be reported as gone")
    assert "apply worker" in finding.finding


async def test_p05c_an_error_since_the_copy(pair: Pair) -> None:
    context = await _stream(pair)
    assert await check(context, "P05c") == []
    await pair.destination_sql("insert into t values (2, 'not from the source')")
    await pair.source_sql("insert into t values (2, 'x')")

    async def reported() -> list[Finding]:
        return blocks(await check(context, "P05c"))

    await eventually(reported, "the conflict to be counted")
    # The error itself may as well be a connection that was lost.
    errors = [f for f in await check(context, "P05c") if "apply_error_count rose by" in f.finding]
    assert [f.severity for f in errors] == [WARN]
    # With the row out of the way it goes on, but what has happened stays reported until a new baseline.
    await pair.destination_sql("delete from t where id = 2")

    async def applied() -> list[object]:
        return list(await pair.destination_sql("select from t where v = 'x'"))

    await eventually(applied, "the row to be applied")
    assert await reported()
    fresh = await read_error_baseline(context.destination, SUBSCRIPTION)
    assert await check(dataclasses.replace(context, baseline=fresh), "P05c") == []
    without = await check(dataclasses.replace(context, baseline=None), "P05c")
    assert any("no earlier count" in f.finding for f in blocks(without))


async def test_p05c_a_missing_row_is_a_conflict(pair: Pair) -> None:
    context = await _stream(pair)
    await pair.destination_sql("delete from t where id = 1")
    await pair.source_sql("update t set v = 'b' where id = 1")

    async def reported() -> list[Finding]:
        return blocks(await check(context, "P05c"))

    (finding,) = await eventually(reported, "the conflict to be counted")
    assert "confl_update_missing rose by 1 since the copy was found good" in finding.finding


async def test_p05c_counters_that_were_reset(pair: Pair) -> None:
    context = await _stream(pair)
    before = ErrorBaseline(SUBSCRIPTION, {"apply_error_count": 3})
    (finding,) = await check(dataclasses.replace(context, baseline=before), "P05c")
    assert finding.severity is WARN
    assert "reset" in finding.finding


async def test_p05d_a_transaction_that_is_to_be_skipped(pair: Pair) -> None:
    context = await _stream(pair)
    assert await check(context, "P05d") == []
    await pair.destination_sql(f"alter subscription {SUBSCRIPTION} skip (lsn = 'FF/FFFFFFF0')")
    (finding,) = await check(context, "P05d")
    assert finding.severity is BLOCK
    assert "FF/FFFFFFF0" in finding.finding


async def test_p04a_and_p04b_a_slot_that_nobody_reads(pair: Pair) -> None:
    context = await _stream(pair)
    assert await check(context, "P04a", "P04b") == []
    await pair.destination_sql(f"alter subscription {SUBSCRIPTION} disable")
    await pair.source_sql("insert into t select i, repeat('x', 100) from generate_series(10, 20000) i")

    async def unread() -> list[Finding]:
        return await check(context, "P04a")

    (finding,) = await eventually(unread, "the slot to be free")
    assert (finding.severity, finding.finding) == (BLOCK, "nobody reads from it")
    (finding,) = await check(context, "P04b")
    assert finding.severity is BLOCK
    assert "1,000,000 are allowed" in finding.finding
    assert await check(dataclasses.replace(context, lag_threshold_bytes=100_000_000), "P04b") == []


async def test_p04a_a_slot_that_is_gone(pair: Pair) -> None:
    context = await _stream(pair)
    await pair.destination_sql(f"alter subscription {SUBSCRIPTION} disable")
    slot = subscription_slot(pair)

    async def dropped() -> bool:
        rows = await pair.source_sql(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1 and not active",
            slot,
        )
        return bool(rows)

    await eventually(dropped, "the slot to be dropped")
    findings = await check(context, "P04a", "P04b")
    assert [f.id for f in blocks(findings)] == ["P04a", "P04b"]
    assert all(slot in f.finding for f in findings)


async def test_p04e_slots_of_others(pair: Pair) -> None:
    context = await _stream(pair)
    assert await check(context, "P04e") == []
    for run in (pair.source_sql, pair.destination_sql):
        await run("select pg_create_logical_replication_slot($1, 'pgoutput')", f"other_{pair.database}")
    findings = await check(context, "P04e")
    assert [f.severity for f in findings] == [WARN, WARN]
    assert "sees no more changes" in findings[1].finding
    known = dataclasses.replace(context, own_slots=frozenset({f"other_{pair.database}"}))
    assert await check(known, "P04e") == []


@pytest.mark.parametrize(("origin", "severity"), [("any", BLOCK), ("none", WARN)])
async def test_p04f_a_stream_that_comes_back(pair: Pair, origin: str, severity: Severity) -> None:
    context = await _stream(pair)
    slot = f"loop_{pair.database}"
    await pair.destination_sql("create publication back for table u")
    await pair.destination_sql("select pg_create_logical_replication_slot($1, 'pgoutput')", slot)
    conninfo = pair.destination.replication_conninfo().replace("'", "''")
    await pair.source_sql(
        f"create subscription back connection '{conninfo}' publication back"
        f" with (create_slot = false, copy_data = false, slot_name = '{slot}', origin = {origin})"
    )
    assert _brief(await check(context, "P04f")) == [(severity, "source: back")]
    ours = dataclasses.replace(context, own_subscriptions=frozenset({"back"}))
    assert await check(ours, "P04f") == []


async def test_p10_tables_without_statistics(pair: Pair) -> None:
    context = await _stream(pair)
    (finding,) = await check(context, "P10")
    assert finding.severity is WARN
    assert "public.t" in finding.finding
    assert "public.u" not in finding.finding  # empty
    await pair.destination_sql("analyze t")
    assert await check(context, "P10") == []
