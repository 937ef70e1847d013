"""admin.commands: what each command asks of the services, and the rows it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from admin.commands import COMMANDS
from admin.commands.general import LIVE_KEYS
from admin.errors import (
    ConsoleError,
    FixedSetting,
    InvalidValue,
    NoSuchDatabase,
    NotInThatState,
)
from admin.parser import parse_script
from admin.result import Columns, Rows, Type
from admin.services import ShutdownMode
from admin.session import ConsoleSession
from admin.settings import SessionSettings
from admin.statement import Context
from config.model import General, TransactionAction
from cutover.api import MoveError, RunKind, RunOutcome
from tests.support.console import STARTED_AT, FakeDaemon, example_report, example_stats
from tests.support.wait import eventually


class Operator:
    """Runs commands against a daemon whose parts are fakes."""

    def __init__(self) -> None:
        self.daemon = FakeDaemon()
        self.session = ConsoleSession("admin", "admin", 4711, SessionSettings({}, {}))
        self.told: list[str] = []
        self.columns: Columns | None = None

    def run(self, text: str) -> Coroutine[Any, Any, Rows]:
        (statement,) = parse_script(text)
        self.columns = statement.described()
        return statement.execute(Context(self.daemon.services, self.session, self._tell))

    async def table(self, text: str) -> list[dict[str, object]]:
        """The rows, after every value has been written in both formats of its type."""
        rows = await self.run(text)
        assert self.columns is not None
        found = []
        for row in rows:
            for column, value in zip(self.columns, row, strict=True):
                for format_code in (0, 1):
                    assert (column.type.encode(value, format_code) is None) == (value is None)
            found.append({column.name: value for column, value in zip(self.columns, row, strict=True)})
        return found

    @property
    def names(self) -> list[str]:
        assert self.columns is not None
        return [column.name for column in self.columns]

    def _tell(self, text: str, *, severity: str = "NOTICE", sqlstate: str = "00000") -> None:
        self.told.append(text)


@pytest.fixture
def operator() -> Operator:
    return Operator()


# -- the move ------------------------------------------------------------------------------------------------


async def test_check(operator: Operator) -> None:
    assert await operator.table("CHECK app") == [
        {
            "id": "no_pk",
            "severity": "block",
            "object": "public.t",
            "finding": "no key",
            "remedy": "add a primary key",
        }
    ]
    assert operator.daemon.moves.calls == [("check", "app")]


@pytest.mark.parametrize("verb", ["REPLICATE", "COMPLETE", "RESET"])
async def test_verbs_that_answer_steps(operator: Operator, verb: str) -> None:
    assert await operator.table(f'{verb} "My App"') == [
        {
            "step": verb.lower(),
            "status": "done",
            "started_ms": 1.0,
            "duration_ms": 2.5,
            "detail": f"{verb.lower()} of My App",
        }
    ]
    assert operator.daemon.moves.calls == [(verb.lower(), "My App")]
    assert operator.told == ["hold: 64 clients", "commit: epoch 7"]


@pytest.mark.parametrize("verb", ["CUTOVER", "REVERT"])
async def test_a_run_answers_its_steps_and_then_its_figures(operator: Operator, verb: str) -> None:
    found = await operator.table(verb)
    assert operator.daemon.moves.calls == [(verb.lower(), None)]
    assert operator.names == ["step", "status", "started_ms", "duration_ms", "detail"]
    assert found[0] == {
        "step": "hold",
        "status": "done",
        "started_ms": 0.0,
        "duration_ms": 3.25,
        "detail": "64 clients",
    }
    assert [(row["step"], row["duration_ms"], row["detail"]) for row in found if row["status"] == "total"] == [
        ("pause", 19.25, "19.2 ms"),
        ("clients held", None, "64"),
        ("hold p50", 11.5, "11.5 ms"),
        ("hold p99", 18.75, "18.8 ms"),
        ("longest hold", 19.125, "19.1 ms"),
        ("transactions waited for", None, "3"),
        ("sessions closed", None, "1"),
        ("round trips", None, "9"),
    ]


@pytest.mark.parametrize("outcome", [RunOutcome.ABORTED, None])
async def test_a_run_that_was_not_committed_is_never_a_success(operator: Operator, outcome: RunOutcome | None) -> None:
    operator.daemon.moves.report = replace(example_report(outcome=outcome), error="lag did not fall")
    with pytest.raises(NotInThatState) as caught:
        await operator.run("CUTOVER")
    assert caught.value.message == "lag did not fall"


async def test_errors_of_a_move_pass_through(operator: Operator) -> None:
    with pytest.raises(MoveError):
        await operator.run("CUTOVER nobody")


async def test_show_replication_says_what_it_does_not_know(operator: Operator) -> None:
    (row,) = await operator.table("SHOW REPLICATION")
    assert row["lag_bytes"] == 5_000_000_000
    assert row["lag_ms"] == 1.235
    assert row["heartbeat_age_ms"] is None
    assert operator.names[:2] == ["pair", "direction"]


async def test_show_table_copies(operator: Operator) -> None:
    (row,) = await operator.table("SHOW TABLE_COPIES app")
    assert row["table"] == "Orders"
    assert row["bytes"] == 2**40
    assert row["eta_s"] is None


async def test_show_cutover_and_nodes(operator: Operator) -> None:
    (row,) = await operator.table("SHOW CUTOVER")
    assert (row["serving"], row["phase"], row["epoch"], row["gate"]) == ("app", "idle", 6, "open")
    (row,) = await operator.table("SHOW NODES")
    assert (row["node"], row["config_valid"], row["epoch"], row["clients"]) == ("n1", True, None, 64)


HISTORY = """
    id kind source destination outcome epoch started_at total_ms pause_ms clients_held hold_p50_ms
    hold_p99_ms hold_max_ms transactions_waited sessions_closed error
"""


async def test_the_history_has_the_columns_of_the_contract(operator: Operator) -> None:
    operator.daemon.moves.past = [example_report(), example_report(RunKind.REVERT, None)]
    first, second = await operator.table("SHOW CUTOVER_HISTORY")
    assert operator.names == HISTORY.split()
    assert (first["id"], first["kind"], first["outcome"]) == ("r1", "cutover", "committed")
    assert (first["started_at"], first["total_ms"]) == (STARTED_AT, 812.346)
    assert (second["kind"], second["outcome"]) == ("revert", None)


# -- PgBouncer's tables --------------------------------------------------------------------------------------

LISTS = """
    databases users peers pools peer_pools free_clients used_clients login_clients free_servers
    used_servers dns_names dns_zones dns_queries dns_pending
"""

COLUMNS = {
    "DATABASES": """
        name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime
        pool_mode load_balance_hosts max_connections current_connections max_client_connections
        current_client_connections paused disabled
    """,
    "POOLS": """
        database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active
        sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us
        pool_mode load_balance_hosts
    """,
    "CLIENTS": """
        type user database replication state addr port local_addr local_port connect_time
        request_time wait wait_us close_needed ptr link remote_pid tls application_name
        prepared_statements id
    """,
    "SERVERS": """
        type user database replication state addr port local_addr local_port connect_time
        request_time wait wait_us close_needed ptr link remote_pid tls application_name
        prepared_statements id
    """,
    "USERS": """
        name pool_size reserve_pool_size pool_mode max_user_connections current_connections
        max_user_client_connections current_client_connections
    """,
    "LISTS": """
        list items
    """,
    "CONFIG": """
        key value default changeable
    """,
    "VERSION": """
        version
    """,
    "STATE": """
        key value
    """,
    "STATS": """
        database total_server_assignment_count total_xact_count total_query_count total_received
        total_sent total_xact_time total_query_time total_wait_time total_client_parse_count
        total_server_parse_count total_bind_count total_client_login_count
        avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time
        avg_query_time avg_wait_time avg_client_parse_count avg_server_parse_count avg_bind_count
        avg_client_login_count
    """,
    "STATS_TOTALS": """
        database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time
        query_time wait_time client_parse_count server_parse_count bind_count client_login_count
    """,
    "STATS_AVERAGES": """
        database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time
        query_time wait_time avg_client_parse_count avg_server_parse_count avg_bind_count
        avg_client_login_count
    """,
    "TOTALS": """
        name value
    """,
}


@pytest.mark.parametrize("what", COLUMNS)
async def test_columns_are_those_of_pgbouncer(operator: Operator, what: str) -> None:
    assert await operator.table(f"SHOW {what}")
    assert operator.names == COLUMNS[what].split()


async def test_show_databases(operator: Operator) -> None:
    operator.daemon.proxy.pause("app_next")
    operator.daemon.proxy.enable("app_next", False)
    first, second, _ = await operator.table("SHOW DATABASES")
    assert (first["name"], first["host"], first["port"], first["database"]) == (
        "app",
        "10.0.0.5",
        5432,
        "app",
    )
    assert (first["current_connections"], first["current_client_connections"]) == (2, 3)
    assert (first["paused"], first["disabled"], first["force_user"]) == (0, 0, None)
    assert (second["paused"], second["disabled"]) == (1, 1)


async def test_show_pools(operator: Operator) -> None:
    (row,) = await operator.table("SHOW POOLS")
    assert (row["cl_active"], row["cl_waiting"], row["sv_active"], row["sv_idle"], row["sv_login"]) == (
        3,
        1,
        2,
        1,
        0,
    )
    assert (row["maxwait"], row["maxwait_us"]) == (2, 500_000)
    assert (row["sv_used"], row["pool_mode"], row["load_balance_hosts"]) == (0, "session", None)


async def test_show_clients(operator: Operator) -> None:
    first, second, third = await operator.table("SHOW CLIENTS")
    assert (first["type"], first["id"], first["ptr"], first["link"]) == ("C", 1, "c1", "s8")
    assert (first["connect_time"], first["request_time"]) == (
        "2023-11-14 22:13:20 UTC",
        "2023-11-14 22:13:25 UTC",
    )
    assert (first["remote_pid"], first["application_name"], first["prepared_statements"]) == (
        4711,
        "shop",
        None,
    )
    assert (second["state"], second["wait"], second["wait_us"], second["link"]) == ("waiting", 2, 500_000, "")
    assert third["state"] == "login"


async def test_show_servers(operator: Operator) -> None:
    first, second, third = await operator.table("SHOW SERVERS")
    assert (first["type"], first["ptr"], first["link"], first["request_time"]) == ("S", "s8", "c1", None)
    assert (first["tls"], first["close_needed"]) == ("TLSv1.3/TLS_AES_256_GCM_SHA384", 0)
    assert second["state"] == "twin"
    assert (third["link"], third["close_needed"]) == ("", 1)


async def test_show_users_counts_each_name_once(operator: Operator) -> None:
    alice, bob = await operator.table("SHOW USERS")
    assert (alice["name"], alice["current_connections"], alice["current_client_connections"]) == (
        "alice",
        3,
        3,
    )
    assert (bob["name"], bob["current_connections"], bob["current_client_connections"]) == ("bob", 0, 0)


async def test_show_lists(operator: Operator) -> None:
    found = {row["list"]: row["items"] for row in await operator.table("SHOW LISTS")}
    assert list(found) == LISTS.split()
    assert (found["databases"], found["users"], found["pools"]) == (3, 2, 1)
    assert (found["used_clients"], found["login_clients"], found["used_servers"]) == (2, 1, 3)


async def test_show_state(operator: Operator) -> None:
    async def state() -> list[object]:
        return [row["value"] for row in await operator.table("SHOW STATE")]

    assert await state() == ["yes", "no", "no"]
    await operator.run("PAUSE app")
    assert await state() == ["yes", "no", "no"]
    await operator.run("PAUSE")
    assert await state() == ["no", "yes", "no"]


async def test_show_stats(operator: Operator) -> None:
    operator.daemon.now_s += 10
    (row,) = await operator.table("SHOW STATS")
    assert operator.columns is not None
    assert {column.type for column in operator.columns[1:]} == {Type.NUMERIC}
    assert (row["database"], row["total_xact_count"], row["total_query_count"]) == ("app", 10, 20)
    assert (row["total_received"], row["total_sent"], row["total_server_assignment_count"]) == (3000, 4000, 9)
    assert (row["avg_xact_count"], row["avg_recv"], row["avg_query_time"]) == (1, 300, 30)
    assert row["total_bind_count"] is None
    (totals,) = await operator.table("SHOW STATS_TOTALS")
    assert (totals["xact_time"], totals["query_time"], totals["wait_time"]) == (500, 600, 700)
    (averages,) = await operator.table("SHOW STATS_AVERAGES")
    assert (averages["xact_time"], averages["bytes_sent"]) == (50, 400)


async def test_show_totals_adds_databases_up(operator: Operator) -> None:
    operator.daemon.now_s += 10
    operator.daemon.proxy.counters = [example_stats(), example_stats("b", 2)]
    found = {row["name"]: row["value"] for row in await operator.table("SHOW TOTALS")}
    assert len(found) == 24
    assert (found["total_xact_count"], found["total_client_bytes"], found["total_server_bytes"]) == (
        30,
        9000,
        12000,
    )
    assert (found["avg_xact_count"], found["avg_xact_time"]) == (3, 50)
    assert found["total_ps_bind_count"] is None


async def test_show_config_has_no_secrets_and_says_what_can_change(operator: Operator) -> None:
    found = {row["key"]: row for row in await operator.table("SHOW CONFIG")}
    assert set(found) == set(General.model_fields)
    assert found["port"] == {"key": "port", "value": "6432", "default": "6432", "changeable": "no"}
    assert found["max_client_conn"]["value"] == "1000"
    assert found["cutover_save_config"]["value"] == "false"
    assert found["tls_certificate"]["value"] is None
    assert found["query_timeout"]["changeable"] == "yes"
    assert "secret" not in str(found)


async def test_show_help_is_the_registry(operator: Operator) -> None:
    found = await operator.table("SHOW HELP")
    assert [row["command"] for row in found] == [command.syntax for command in COMMANDS if command.listed]


# -- PAUSE and its like --------------------------------------------------------------------------------------


async def test_pause_waits_until_all_is_quiet(operator: Operator) -> None:
    proxy = operator.daemon.proxy
    proxy.quiet = False
    task = asyncio.create_task(operator.run("PAUSE app"))
    await eventually(lambda: proxy.waiting, "the pause to wait")
    assert not task.done()
    proxy.quiet = True
    await proxy.announce()
    assert await task == ()
    assert proxy.calls == [("pause", "app")]


async def test_pause_without_a_name_pauses_what_is_not_paused_yet(operator: Operator) -> None:
    await operator.run("PAUSE app")
    await operator.run("PAUSE")
    assert operator.daemon.proxy.calls == [("pause", "app"), ("pause", "app_next"), ("pause", "My App")]


@pytest.mark.parametrize("text", ["PAUSE", "PAUSE app"])
async def test_pausing_what_is_paused_is_an_error(operator: Operator, text: str) -> None:
    await operator.run("PAUSE")
    with pytest.raises(NotInThatState) as caught:
        await operator.run(text)
    assert caught.value.message.startswith("already suspended/paused")


@pytest.mark.parametrize("text", ["RESUME", "RESUME app"])
async def test_resuming_what_is_not_paused_is_an_error(operator: Operator, text: str) -> None:
    with pytest.raises(NotInThatState):
        await operator.run(text)
    await operator.run("PAUSE")
    await operator.run(text)
    assert not operator.daemon.proxy.views["app"].paused


async def test_a_pause_that_is_broken_off_is_undone(operator: Operator) -> None:
    proxy = operator.daemon.proxy
    await operator.run("PAUSE app_next")
    proxy.quiet = False
    task = asyncio.create_task(operator.run("PAUSE"))
    await eventually(lambda: proxy.waiting, "the pause to wait")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {name: view.paused for name, view in proxy.views.items()} == {
        "app": False,
        "app_next": True,
        "My App": False,
    }


async def test_a_pause_that_fails_half_way_is_undone(operator: Operator) -> None:
    proxy = operator.daemon.proxy
    original = proxy.pause

    def pause(database: str) -> None:
        if database == "My App":
            raise NotInThatState("a run is under way")
        original(database)

    proxy.pause = pause  # type: ignore[method-assign]
    with pytest.raises(NotInThatState):
        await operator.run("PAUSE")
    assert not any(view.paused for view in proxy.views.values())


async def test_a_resume_from_elsewhere_ends_a_waiting_pause_with_an_error(operator: Operator) -> None:
    proxy = operator.daemon.proxy
    proxy.quiet = False
    task = asyncio.create_task(operator.run("PAUSE app"))
    await eventually(lambda: proxy.waiting, "the pause to wait")
    proxy.resume("app")
    with pytest.raises(NotInThatState, match="ended by a RESUME"):
        await task


@pytest.mark.parametrize(
    "command", ["PAUSE", "RESUME", "DISABLE", "ENABLE", "RECONNECT", "KILL", "WAIT_CLOSE", "MAINTENANCE ON"]
)
async def test_databases_are_known_by_their_exact_name(operator: Operator, command: str) -> None:
    for name in ("nobody", "APP", '"my app"'):
        with pytest.raises(NoSuchDatabase):
            await operator.run(f"{command} {name}")
    with pytest.raises(ConsoleError, match="admin database"):
        await operator.run(f"{command} admin")
    assert operator.daemon.proxy.calls == []


async def test_enable_disable_maintenance_reconnect(operator: Operator) -> None:
    for text in ("DISABLE app", "ENABLE app", 'MAINTENANCE ON "My App"', "MAINTENANCE OFF", "RECONNECT app"):
        await operator.run(text)
    assert operator.daemon.proxy.calls == [
        ("enable", "app", False),
        ("enable", "app", True),
        ("maintain", "My App", True),
        ("maintain", "app", False),
        ("maintain", "app_next", False),
        ("maintain", "My App", False),
        ("reconnect", "app"),
    ]


async def test_wait_close_waits_for_marked_links(operator: Operator) -> None:
    proxy = operator.daemon.proxy
    await operator.run("RECONNECT app")
    task = asyncio.create_task(operator.run("WAIT_CLOSE"))
    await eventually(lambda: ("wait_close", "app") in proxy.calls, "the wait to begin")
    assert not task.done()
    proxy.marked.clear()
    await proxy.announce()
    await task


async def test_kill_says_how_many_it_closed_and_leaves_the_pause(operator: Operator) -> None:
    await operator.run("KILL")
    assert operator.told == ["9 clients closed; paused: app, app_next, My App; RESUME lets clients in again"]
    assert all(view.paused for view in operator.daemon.proxy.views.values())


# -- configuration and the end -------------------------------------------------------------------------------


async def test_set_changes_a_key_with_its_type(operator: Operator) -> None:
    await operator.run("SET query_timeout = 2500")
    await operator.run("SET cutover_transaction_action TO 'terminate'")
    await operator.run("SET cutover_save_config = on")
    general = operator.daemon.config.general
    assert general.query_timeout == 2500
    assert general.cutover_transaction_action is TransactionAction.TERMINATE
    assert general.cutover_save_config is True
    await operator.run("SET query_timeout TO DEFAULT")
    assert operator.daemon.config.general.query_timeout == 0
    assert await operator.table("SHOW cutover_transaction_action") == [{"cutover_transaction_action": "terminate"}]


@pytest.mark.parametrize(
    ("text", "detail", "hint"),
    [
        ("SET query_timeout = '5s'", "milliseconds", "Now: 0."),
        ("SET query_timeout = -1", "greater than or equal to 0", "Now: 0."),
        ("SET cutover_max_pause = 1", "greater than or equal to 100", "Now: 5000."),
        ("SET cutover_fence = moat", "read_only", "Choices: read_only, triggers, none."),
        ("SET cutover_save_config = perhaps", "boolean", "Now: false."),
    ],
)
async def test_values_that_do_not_fit_their_key(operator: Operator, text: str, detail: str, hint: str) -> None:
    before = operator.daemon.config
    with pytest.raises(InvalidValue) as caught:
        await operator.run(text)
    assert caught.value.detail is not None
    assert detail in caught.value.detail
    assert caught.value.hint == hint
    assert operator.daemon.config is before


async def test_keys_bound_to_sockets_and_files_cannot_be_set(operator: Operator) -> None:
    with pytest.raises(FixedSetting) as caught:
        await operator.run("SET port = 7000")
    assert caught.value.sqlstate == "55P02"


def test_live_keys_exist() -> None:
    assert set(General.model_fields) > LIVE_KEYS


async def test_reload_tells_what_changed(operator: Operator) -> None:
    await operator.run("RELOAD")
    assert operator.daemon.reloads == 1
    assert operator.told == ["changed: general.query_timeout"]


async def test_shutdown_asks_and_answers(operator: Operator) -> None:
    for text in ("SHUTDOWN", "SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN WAIT_FOR_CLIENTS"):
        await operator.run(text)
    assert operator.daemon.shutdowns == list(ShutdownMode)


async def test_what_drivers_ask(operator: Operator) -> None:
    (row,) = await operator.run("SELECT version(), current_database(), pg_backend_pid(), pg_is_in_recovery()")
    assert row == ("PostgreSQL 12.0 (pgcutover 0.1.0 admin console)", "admin", 4711, False)
    (row,) = await operator.run("SELECT current_user, current_schema, pg_postmaster_start_time()")
    assert row == ("admin", "public", STARTED_AT)
    assert await operator.table("SELECT now()")
    assert await operator.table("SELECT pg_advisory_unlock_all()") == [{"pg_advisory_unlock_all": ""}]
