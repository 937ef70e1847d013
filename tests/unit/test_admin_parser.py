"""admin.parser with the registry: text to statements."""

from __future__ import annotations

import pytest

from admin.commands import COMMANDS
from admin.commands.links import Kill, Reconnect, WaitClose
from admin.commands.moves import Check, Complete, Cutover, Replicate, Reset, Revert
from admin.commands.pause import Disable, Enable, Maintenance, Pause, Resume
from admin.commands.select import Select
from admin.commands.session import Deallocate, Discard, ResetAll, ShowSetting, Unlisten
from admin.commands.set import SetKey, SetNothing, SetSession
from admin.commands.shutdown import Shutdown
from admin.commands.streams import ShowCutover, ShowHistory
from admin.commands.transaction import Begin, Commit, Release, Rollback, RollbackTo, Savepoint
from admin.errors import InvalidCommand, SyntaxProblem, UnknownParameter, UnknownSetting
from admin.lexer import statements
from admin.parser import parse_script, parse_statement
from admin.result import Type
from admin.services import ShutdownMode
from admin.settings import find_setting
from admin.statement import Statement


def parse(text: str) -> Statement:
    (statement,) = parse_script(text)
    return statement


def setting(name: str, value: str | None) -> SetSession:
    found = find_setting(name)
    assert found is not None
    return SetSession(found, value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CHECK", Check(None)),
        ("check app;", Check("app")),
        ("Replicate App", Replicate("App")),
        ('cutover "My App"', Cutover("My App")),
        ("REVERT 'app'", Revert("app")),
        ("COMPLETE my-app", Complete("my-app")),
        ("RESET", Reset(None)),
        ("RESET app", Reset("app")),
        ('RESET "all"', Reset("all")),
        ("SHOW CUTOVER", ShowCutover(None)),
        ("show cutover app", ShowCutover("app")),
        ("SHOW CUTOVER_HISTORY", ShowHistory(None)),
        ("PAUSE", Pause(None)),
        ("PAUSE app", Pause("app")),
        ("RESUME app", Resume("app")),
        ("MAINTENANCE ON", Maintenance(True, None)),
        ("maintenance off app", Maintenance(False, "app")),
        ("DISABLE app", Disable("app")),
        ("ENABLE app", Enable("app")),
        ("RECONNECT", Reconnect(None)),
        ("WAIT_CLOSE app", WaitClose("app")),
        ("KILL app", Kill("app")),
        ("SHUTDOWN", Shutdown(ShutdownMode.NOW)),
        ("SHUTDOWN wait_for_servers", Shutdown(ShutdownMode.WAIT_FOR_SERVERS)),
        ("SHUTDOWN WAIT_FOR_CLIENTS", Shutdown(ShutdownMode.WAIT_FOR_CLIENTS)),
        ("SET query_timeout = 5000", SetKey("query_timeout", "5000")),
        ("SET Query_Timeout TO '5000'", SetKey("query_timeout", "5000")),
        ("SET log_level TO DEFAULT", SetKey("log_level", None)),
        ("SET extra_float_digits = -3", setting("extra_float_digits", "-3")),
        ("SET client_encoding TO 'UTF8'", setting("client_encoding", "UTF8")),
        ("SET SESSION datestyle = ISO, MDY", setting("DateStyle", "ISO, MDY")),
        ("SET TIME ZONE 'UTC'", setting("TimeZone", "UTC")),
        ("SET TIME ZONE LOCAL", setting("TimeZone", None)),
        ("SET NAMES 'utf8'", setting("client_encoding", "utf8")),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", SetNothing()),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", SetNothing()),
        ("BEGIN", Begin("BEGIN")),
        ("begin isolation level serializable, read only", Begin("BEGIN")),
        ("START TRANSACTION", Begin("START TRANSACTION")),
        ("COMMIT WORK", Commit()),
        ("END", Commit()),
        ("ROLLBACK", Rollback()),
        ("ROLLBACK AND NO CHAIN", Rollback()),
        ("ABORT TRANSACTION", Rollback()),
        ("SAVEPOINT s", Savepoint("s")),
        ("RELEASE SAVEPOINT s", Release("s")),
        ("ROLLBACK TO SAVEPOINT s", RollbackTo("s")),
        ("ROLLBACK TO s", RollbackTo("s")),
        ("RESET ALL", ResetAll()),
        ("DISCARD ALL", Discard("ALL")),
        ("DEALLOCATE PREPARE all", Deallocate(None)),
        ('DEALLOCATE "_pg3_0"', Deallocate("_pg3_0")),
        ("UNLISTEN *", Unlisten("*")),
    ],
)
def test_statements(text: str, expected: Statement) -> None:
    parsed = parse(text)
    assert type(parsed) is type(expected)
    assert vars(parsed) == vars(expected)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("SHOW server_version", "server_version"),
        ("show DATESTYLE", "DateStyle"),
        ("SHOW TIME ZONE", "TimeZone"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "transaction_isolation"),
        ("SHOW SESSION AUTHORIZATION", "session_authorization"),
        ("SHOW cutover_max_pause", "cutover_max_pause"),
        ("SHOW VERSION", "version"),
    ],
)
def test_show_of_one_value_names_its_column_before_it_runs(text: str, column: str) -> None:
    described = parse(text).described()
    assert described is not None
    assert [c.name for c in described] == [column]


def test_show_prefers_a_command_to_a_setting() -> None:
    assert not isinstance(parse("SHOW CONFIG"), ShowSetting)


def test_select_knows_the_types_of_its_constants() -> None:
    parsed = parse("SELECT 1, 9000000000 AS big, 'x', true, NULL, pg_catalog.version(), current_user")
    assert isinstance(parsed, Select)
    assert [(c.name, c.type) for c in parsed.described()] == [
        ("?column?", Type.INT4),
        ("big", Type.INT8),
        ("?column?", Type.TEXT),
        ("bool", Type.BOOL),
        ("?column?", Type.TEXT),
        ("version", Type.TEXT),
        ("current_user", Type.TEXT),
    ]


def test_the_reset_query_of_asyncpg() -> None:
    script = parse_script("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;")
    assert [statement.completion(1) for statement in script] == [
        "SELECT 1",
        "CLOSE CURSOR ALL",
        "UNLISTEN",
        "RESET",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("FROBNICATE", None),
        ("SHOW POOL", 'Did you mean "SHOW POOLS"?'),
        ("CUTOVR app", 'Did you mean "CUTOVER"?'),
        ("SHOW", None),
        ("SHOW nothing_like_it", None),
        ("SELECT * FROM pg_class", None),
        ("SELECT 1 +", None),
        ("SELECT pg_sleep(1)", None),
        ("SELECT " + "9" * 5000, None),
        ('"PAUSE"', 'Did you mean "PAUSE"?'),
        ("= 1", None),
    ],
)
def test_unknown_commands_name_what_was_typed(text: str, hint: str | None) -> None:
    with pytest.raises(InvalidCommand) as caught:
        parse_script(text)
    shown = text if len(text) <= 60 else text[:57] + "..."
    assert caught.value.message == f'invalid command "{shown}"; SHOW HELP lists what there is'
    assert caught.value.sqlstate == "42601"
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("PAUSE a b", 'syntax error at or near "b"', "Syntax: PAUSE [db]"),
        ("SHOW POOLS x", 'syntax error at or near "x"', "Syntax: SHOW POOLS"),
        ("DISABLE", "syntax error at end of input", "Syntax: DISABLE db"),
        ("MAINTENANCE app", 'syntax error at or near "app"', "Syntax: MAINTENANCE ON|OFF [db]"),
        (
            "SHUTDOWN later",
            'syntax error at or near "later"',
            "Syntax: SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
        ),
        ("SET query_timeout", "syntax error at end of input", "Syntax: SET key = value"),
        ("SET query_timeout = -", "syntax error at end of input", "Syntax: SET key = value"),
        ("COMMIT AND CHAIN", 'syntax error at or near "CHAIN"', "Syntax: COMMIT"),
    ],
)
def test_wrong_arguments_show_the_syntax(text: str, problem: str, hint: str) -> None:
    with pytest.raises(SyntaxProblem) as caught:
        parse_script(text)
    assert (caught.value.message, caught.value.hint) == (problem, hint)


def test_an_unknown_key_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(UnknownSetting) as caught:
        parse_script("SET querytimeout = 1")
    assert caught.value.sqlstate == "42704"
    assert caught.value.hint == 'Did you mean "query_timeout"? SHOW CONFIG lists the keys.'


def test_one_wrong_statement_spoils_the_script() -> None:
    with pytest.raises(InvalidCommand):
        parse_script("PAUSE app; FROBNICATE")


def test_parameters_take_the_place_of_names_and_values() -> None:
    (text,) = statements("SET query_timeout = $1")
    assert parse_statement(text).described() is None
    assert parse_statement(text, ["250"]) == SetKey("query_timeout", "250")
    (text,) = statements("CUTOVER $1")
    assert parse_statement(text, ["ON; DROP"]) == Cutover("ON; DROP")


def test_a_simple_query_has_no_parameters() -> None:
    with pytest.raises(UnknownParameter) as caught:
        parse_script("PAUSE $1")
    assert caught.value.sqlstate == "42P02"


def test_the_registry_is_free_of_doubles_and_lists_only_described_commands() -> None:
    words = [command.words for command in COMMANDS]
    assert len(set(words)) == len(words)
    for command in COMMANDS:
        assert command.words
        assert all(word.isupper() for word in command.words)
        if command.listed:
            assert command.summary
            assert command.syntax.split()[: len(command.words)] == list(command.words)


def test_every_command_of_the_design_is_listed() -> None:
    listed = {" ".join(command.words) for command in COMMANDS if command.listed}
    assert listed >= {
        *("CHECK", "REPLICATE", "CUTOVER", "REVERT", "COMPLETE", "RESET"),
        *("PAUSE", "RESUME", "DISABLE", "ENABLE", "MAINTENANCE", "RECONNECT", "KILL", "WAIT_CLOSE"),
        *("RELOAD", "SHUTDOWN", "SET"),
        *(f"SHOW {what}" for what in ("REPLICATION", "TABLE_COPIES", "CUTOVER", "CUTOVER_HISTORY", "NODES")),
        *(f"SHOW {what}" for what in ("HELP", "VERSION", "DATABASES", "POOLS", "CLIENTS", "SERVERS", "USERS")),
        *(f"SHOW {what}" for what in ("LISTS", "CONFIG", "STATS", "STATS_TOTALS", "STATS_AVERAGES")),
        *("SHOW TOTALS", "SHOW STATE"),
    }
