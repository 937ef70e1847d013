"""admin.protocol: conversations, message by message, without a connection or an event loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admin.errors import Canceled, NotInThatState
from admin.protocol import ConsoleProtocol, Outcome, Run, Send
from admin.result import Rows
from admin.session import ConsoleSession
from admin.settings import SessionSettings
from admin.statement import Context, Statement
from proxy.errors import ProtocolViolation, ProxyError
from proxy.wire import messages
from proxy.wire.framing import take_message
from proxy.wire.messages import decode_data_row, error_fields
from tests.support.console import FakeDaemon

Heard = list[tuple[str, bytes]]


def session(**startup: str) -> ConsoleSession:
    fixed = {"server_version": "12.0 (pgcutover 0.1.0)", "session_authorization": "admin"}
    return ConsoleSession("admin", "admin", 4711, SessionSettings(fixed, startup))


class Talk:
    """A client that hears every answer at once. `ran` has every statement; `answers` replaces running."""

    def __init__(self) -> None:
        self.session = session()
        self.protocol = ConsoleProtocol(self.session)
        self.services = FakeDaemon().services
        self.ran: list[Statement] = []
        self.told: list[str] = []
        self.answers: dict[str, Outcome] = {}

    def say(self, *requests: bytes) -> str:
        """The types of all answers, in order, as one word."""
        return "".join(kind for kind, _ in self.hear(*requests))

    def hear(self, *requests: bytes) -> Heard:
        heard = bytearray()
        buffer = bytearray(b"".join(requests))
        while (message := take_message(buffer, 1 << 20)) is not None:
            steps = self.protocol.handle(*message)
            outcome: Outcome | None = None
            while True:
                try:
                    step = steps.send(outcome)
                except StopIteration:
                    break
                outcome = None
                if isinstance(step, Send):
                    heard += step.data
                else:
                    outcome = self._run(step)
        assert not buffer
        found: Heard = []
        while (message := take_message(heard, 1 << 30)) is not None:
            found.append((chr(message[0]), message[1]))
        return found

    def _run(self, step: Run) -> Outcome:
        self.ran.append(step.statement)
        given = self.answers.get(step.statement.tag)
        if given is not None:
            return given
        try:
            return Outcome(finished(step.statement, self._context()))
        except ProxyError as error:
            return Outcome(error=error)

    def _context(self) -> Context:
        def tell(text: str, *, severity: str = "NOTICE", sqlstate: str = "00000") -> None:
            self.told.append(f"{severity} {sqlstate} {text}")

        return Context(self.services, self.session, tell)


def finished(statement: Statement, context: Context) -> Rows:
    """Run a statement that never waits."""
    try:
        statement.execute(context).send(None)
    except StopIteration as stop:
        rows: Rows = stop.value
        return rows
    raise AssertionError(f"{statement} waited")


def bind(
    statement: str = "",
    portal: str = "",
    parameters: Sequence[bytes | None] = (),
    formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> bytes:
    def codes(given: Sequence[int]) -> bytes:
        return len(given).to_bytes(2, "big") + b"".join(code.to_bytes(2, "big") for code in given)

    values = len(parameters).to_bytes(2, "big") + b"".join(
        b"\xff" * 4 if value is None else len(value).to_bytes(4, "big") + value for value in parameters
    )
    body = f"{portal}\0{statement}\0".encode() + codes(formats) + values + codes(result_formats)
    return messages.message(ord("B"), body)


def rows_of(heard: Heard) -> list[list[bytes | None]]:
    return [decode_data_row(body) for kind, body in heard if kind == "D"]


def error_of(heard: Heard) -> dict[str, str]:
    (body,) = [body for kind, body in heard if kind == "E"]
    return {code: value.decode() for code, value in error_fields(body).items()}


def tags_of(heard: Heard) -> list[str]:
    return [body.rstrip(b"\0").decode() for kind, body in heard if kind == "C"]


def status_of(heard: Heard) -> str:
    kind, body = heard[-1]
    assert kind == "Z"
    return body.decode()


query, parse, describe, execute, close = (
    messages.query,
    messages.parse,
    messages.describe,
    messages.execute,
    messages.close,
)
SYNC, FLUSH = messages.SYNC, messages.FLUSH


# -- greeting ------------------------------------------------------------------------------------------------


def test_the_greeting_tells_what_drivers_look_for() -> None:
    protocol = ConsoleProtocol(session(application_name="shop", extra_float_digits="3", client_encoding="LATIN1"))
    buffer = bytearray(protocol.greeting(b"\1\2\3\4"))
    told: dict[str, str] = {}
    kinds = ""
    while (message := take_message(buffer, 1000)) is not None:
        kinds += chr(message[0])
        if message[0] == ord("S"):
            name, value = messages.decode_parameter_status(message[1])
            told[name.decode()] = value.decode()
        elif message[0] == ord("K"):
            assert messages.decode_backend_key(message[1]) == (4711, b"\1\2\3\4")
    assert kinds == "S" * len(told) + "KZ"
    assert (
        told.items()
        >= {
            "server_version": "12.0 (pgcutover 0.1.0)",
            "server_encoding": "UTF8",
            "client_encoding": "UTF8",
            "DateStyle": "ISO, MDY",
            "TimeZone": "UTC",
            "standard_conforming_strings": "on",
            "integer_datetimes": "on",
            "is_superuser": "on",
            "session_authorization": "admin",
            "application_name": "shop",
        }.items()
    )
    assert "extra_float_digits" not in told


# -- simple query --------------------------------------------------------------------------------------------


def test_rows_of_a_simple_query_are_text() -> None:
    heard = Talk().hear(query("show version"))
    assert [kind for kind, _ in heard] == ["T", "D", "C", "Z"]
    assert rows_of(heard) == [[b"pgcutover 0.1.0"]]
    assert tags_of(heard) == ["SHOW"]
    assert status_of(heard) == "I"


def test_several_statements_have_one_ready() -> None:
    heard = Talk().hear(query("SHOW VERSION; RESET ALL; SELECT 1, NULL"))
    assert "".join(kind for kind, _ in heard) == "TDCCTDCZ"
    assert tags_of(heard) == ["SHOW", "RESET", "SELECT 1"]
    assert rows_of(heard)[1] == [b"1", None]


@pytest.mark.parametrize("text", ["", " ;; ", "-- nothing"])
def test_an_empty_query(text: str) -> None:
    assert Talk().say(query(text)) == "IZ"


def test_nothing_runs_where_one_statement_is_wrong() -> None:
    talk = Talk()
    heard = talk.hear(query("RESET ALL; FROBNICATE now"))
    assert talk.ran == []
    assert "".join(kind for kind, _ in heard) == "EZ"
    assert error_of(heard) == {
        "S": "ERROR",
        "V": "ERROR",
        "C": "42601",
        "M": 'invalid command "FROBNICATE now"; SHOW HELP lists what there is',
    }


def test_the_first_error_ends_a_script_and_the_session_goes_on() -> None:
    talk = Talk()
    talk.answers["PAUSE"] = Outcome(error=NotInThatState("already suspended/paused: app", hint="RESUME ends it."))
    heard = talk.hear(query("SELECT 1; PAUSE app; SELECT 2"))
    assert "".join(kind for kind, _ in heard) == "TDCEZ"
    assert (error_of(heard)["C"], error_of(heard)["H"]) == ("55000", "RESUME ends it.")
    assert len(talk.ran) == 2
    assert talk.say(query("SELECT 2")) == "TDCZ"


def test_bytes_that_are_not_utf8_are_an_error() -> None:
    assert error_of(Talk().hear(messages.message(ord("Q"), b"PAUSE \xff\0")))["C"] == "22021"


def test_a_query_that_does_not_end_is_an_error() -> None:
    assert error_of(Talk().hear(messages.message(ord("Q"), b"PAUSE")))["C"] == "08P01"


# -- transactions and settings -------------------------------------------------------------------------------


def test_the_status_follows_begin_and_commit() -> None:
    talk = Talk()
    assert status_of(talk.hear(query("BEGIN"))) == "T"
    assert status_of(talk.hear(query("SHOW VERSION"))) == "T"
    assert status_of(talk.hear(query("FROBNICATE"))) == "T"
    assert status_of(talk.hear(query("COMMIT"))) == "I"
    assert talk.told == []


def test_begin_and_commit_out_of_place_warn() -> None:
    talk = Talk()
    assert status_of(talk.hear(query("BEGIN; BEGIN"))) == "T"
    assert status_of(talk.hear(query("ROLLBACK; ROLLBACK; COMMIT"))) == "I"
    assert talk.told == [
        "WARNING 25001 there is already a transaction in progress",
        "WARNING 25P01 there is no transaction in progress",
        "WARNING 25P01 there is no transaction in progress",
    ]


def test_rollback_says_what_it_does_not_undo() -> None:
    talk = Talk()
    talk.answers["PAUSE"] = Outcome()
    talk.hear(query("BEGIN; SHOW VERSION; PAUSE; PAUSE app; ROLLBACK"))
    assert talk.told == ["WARNING 01000 not undone, commands take effect when they run: PAUSE"]
    talk.hear(query("BEGIN; ROLLBACK"))
    assert len(talk.told) == 1


def test_savepoints_need_a_transaction() -> None:
    talk = Talk()
    assert error_of(talk.hear(query("SAVEPOINT a")))["C"] == "25P01"
    assert talk.say(query("BEGIN; SAVEPOINT a; ROLLBACK TO a; RELEASE a; COMMIT")) == "CCCCCZ"


def test_a_reported_setting_that_changes_is_told() -> None:
    talk = Talk()
    heard = talk.hear(query("SET application_name = 'x'; SET search_path = a, b; SHOW search_path"))
    assert "".join(kind for kind, _ in heard) == "SCCTDCZ"
    assert heard[0][1] == b"application_name\0x\0"
    assert rows_of(heard) == [[b"a, b"]]
    assert talk.say(query("SET application_name = 'x'")) == "CZ"
    heard = talk.hear(query("RESET ALL; SHOW search_path"))
    assert heard[0] == ("S", b"application_name\0\0")
    assert rows_of(heard) == [[b'"$user", public']]


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("SET client_encoding = 'LATIN1'", "0A000"),
        ("SET datestyle = 'German'", "0A000"),
        ("SET standard_conforming_strings = off", "22023"),
        ("SET server_version = '17'", "55P02"),
        ("SET no_such_thing = 1", "42704"),
    ],
)
def test_settings_that_cannot_be(text: str, sqlstate: str) -> None:
    assert error_of(Talk().hear(query(text)))["C"] == sqlstate


def test_discard_all_forgets_everything() -> None:
    talk = Talk()
    talk.hear(parse("s", "SHOW VERSION"), bind("s", "p"), query("BEGIN; SET application_name = x; DISCARD ALL"))
    assert talk.session.prepared == {}
    assert talk.session.portals == {}
    assert talk.session.settings.reported()[0] == ("application_name", "")


# -- extended query ------------------------------------------------------------------------------------------


def test_the_columns_are_known_before_it_runs() -> None:
    talk = Talk()
    heard = talk.hear(parse("s", "SHOW LISTS"), describe("S", "s"), FLUSH)
    assert [kind for kind, _ in heard] == ["1", "t", "T"]
    assert talk.ran == []
    assert talk.say(bind("s"), describe("P", ""), execute(""), SYNC) == "2T" + "D" * 14 + "CZ"
    assert len(talk.ran) == 1


def test_no_columns_no_data() -> None:
    talk = Talk()
    talk.answers["PAUSE"] = Outcome()
    assert talk.say(parse("", "PAUSE"), describe("S", ""), bind(), describe("P", ""), execute(""), SYNC) == "1tn2nCZ"


def test_binary_and_text_columns_as_asked() -> None:
    talk = Talk()
    select = parse("s", "SELECT 258, 'x'")
    assert rows_of(talk.hear(select, bind("s", result_formats=(1,)), execute(""))) == [[b"\0\0\1\2", b"x"]]
    assert rows_of(talk.hear(bind("s", result_formats=(0, 1)), execute(""))) == [[b"258", b"x"]]
    assert rows_of(talk.hear(bind("s", result_formats=(1, 0)), execute(""))) == [[b"\0\0\1\2", b"x"]]
    heard = talk.hear(bind("s", result_formats=(1, 0)), describe("P", ""))
    assert heard[1][1].endswith(b"\0\0")
    assert b"\0\0\0\x17\0\4\xff\xff\xff\xff\0\1" in heard[1][1]


@pytest.mark.parametrize("wrong", [(0, 0, 0), (2,)])
def test_formats_that_do_not_fit(wrong: tuple[int, ...]) -> None:
    heard = Talk().hear(parse("", "SELECT 1"), bind(result_formats=wrong), SYNC)
    assert error_of(heard)["C"] == "08P01"


def test_a_row_limit_hands_out_rows_in_pieces() -> None:
    talk = Talk()
    talk.hear(parse("s", "SHOW LISTS"), bind("s", "p"))
    assert talk.say(execute("p", 10)) == "D" * 10 + "s"
    assert talk.say(execute("p", 4)) == "D" * 4 + "C"
    assert talk.say(execute("p", 4)) == "C"
    assert len(talk.ran) == 1


def test_a_portal_without_rows_runs_once() -> None:
    talk = Talk()
    talk.answers["PAUSE"] = Outcome()
    heard = talk.hear(parse("", "PAUSE"), bind(), execute(""), execute(""), SYNC)
    assert "".join(kind for kind, _ in heard) == "12CEZ"
    assert error_of(heard)["M"] == 'portal "" cannot be run anymore'
    assert len(talk.ran) == 1


def test_a_portal_that_failed_does_not_run_again() -> None:
    talk = Talk()
    talk.answers["CUTOVER"] = Outcome(error=Canceled())
    assert talk.say(query("BEGIN"), parse("", "CUTOVER"), bind("", "p"), execute("p"), SYNC) == "CZ12EZ"
    assert error_of(talk.hear(execute("p"), SYNC))["C"] == "55000"
    assert len([statement for statement in talk.ran if statement.tag == "CUTOVER"]) == 1


def test_an_error_passes_over_everything_up_to_sync() -> None:
    talk = Talk()
    heard = talk.hear(parse("", "FROBNICATE"), bind(), execute(""), query("SHOW VERSION"), parse("", "PAUSE"), SYNC)
    assert "".join(kind for kind, _ in heard) == "EZ"
    assert talk.ran == []
    assert talk.say(parse("", "SHOW VERSION"), bind(), execute(""), SYNC) == "12DCZ"


def test_names_that_are_unknown_or_taken() -> None:
    talk = Talk()
    assert error_of(talk.hear(bind("no"), SYNC))["C"] == "26000"
    assert error_of(talk.hear(describe("S", "no"), SYNC))["C"] == "26000"
    assert error_of(talk.hear(describe("P", "no"), SYNC))["C"] == "34000"
    assert error_of(talk.hear(execute("no"), SYNC))["C"] == "34000"
    assert error_of(talk.hear(parse("s", "SHOW VERSION"), parse("s", "SHOW VERSION"), SYNC))["C"] == "42P05"
    assert error_of(talk.hear(bind("s", "p"), bind("s", "p"), SYNC))["C"] == "42P03"
    assert talk.say(parse("", "SHOW VERSION"), parse("", "SHOW VERSION"), bind(), bind(), SYNC) == "1122Z"


def test_close_and_deallocate() -> None:
    talk = Talk()
    assert talk.say(parse("s", "SHOW VERSION"), close("S", "s"), close("S", "s"), close("P", "p"), SYNC) == "1333Z"
    assert talk.say(parse("s", "SHOW VERSION"), query("DEALLOCATE s")) == "1CZ"
    assert error_of(talk.hear(query("DEALLOCATE s")))["C"] == "26000"


def test_portals_live_as_long_as_their_transaction() -> None:
    talk = Talk()
    talk.hear(parse("s", "SHOW LISTS"), bind("s", "p"), SYNC)
    assert talk.session.portals == {}
    talk.hear(query("BEGIN"), bind("s", "p"), execute("p", 1), SYNC)
    assert talk.say(execute("p", 1), SYNC) == "DsZ"
    talk.hear(query("COMMIT"))
    assert talk.session.portals == {}


def test_a_statement_that_ends_the_transaction_completes() -> None:
    talk = Talk()
    assert talk.say(query("BEGIN"), parse("", "COMMIT"), bind(), execute(""), SYNC) == "CZ12CZ"


def test_an_empty_query_in_the_extended_protocol() -> None:
    assert Talk().say(parse("", ""), describe("S", ""), bind(), describe("P", ""), execute(""), SYNC) == "1tn2nIZ"


def test_one_statement_per_parse() -> None:
    heard = Talk().hear(parse("", "SHOW VERSION; SHOW VERSION"), SYNC)
    assert error_of(heard)["M"] == "cannot insert multiple commands into a prepared statement"


def test_a_simple_query_ends_the_unnamed_statement() -> None:
    talk = Talk()
    talk.hear(parse("", "SHOW VERSION"), query("SELECT 1"))
    assert error_of(talk.hear(bind(), SYNC))["C"] == "26000"


def test_prepared_statements_are_bounded() -> None:
    talk = Talk()
    for number in range(1000):
        assert talk.say(parse(f"s{number}", "SHOW VERSION")) == "1"
    assert error_of(talk.hear(parse("more", "SHOW VERSION"), SYNC))["C"] == "54000"


# -- parameters ----------------------------------------------------------------------------------------------


def set_value(talk: Talk) -> Any:
    return vars(talk.ran[-1])["value"]


def talk_that_only_records() -> Talk:
    talk = Talk()
    talk.answers["SET"] = Outcome()
    return talk


@pytest.mark.parametrize(
    ("oid", "raw", "format", "value"),
    [
        (0, b"250", 0, "250"),
        (25, b"250", 1, "250"),
        (21, b"\0\xfa", 1, "250"),
        (23, b"\0\0\0\xfa", 1, "250"),
        (20, b"\0\0\0\0\0\0\0\xfa", 1, "250"),
        (16, b"\1", 1, "true"),
        (1043, "größe".encode(), 1, "größe"),
        (700, b"1.5", 0, "1.5"),
    ],
)
def test_parameters_in_text_and_binary(oid: int, raw: bytes, format: int, value: str) -> None:
    talk = talk_that_only_records()
    heard = talk.hear(parse("s", "SET query_timeout = $1", (oid,)), describe("S", "s"))
    assert heard[1] == ("t", b"\0\1" + (oid or 25).to_bytes(4, "big"))
    assert talk.say(bind("s", parameters=(raw,), formats=(format,)), execute(""), SYNC) == "2CZ"
    assert set_value(talk) == value


@pytest.mark.parametrize(
    ("parameters", "oid", "format", "sqlstate"),
    [
        ((), 25, 0, "08P01"),
        ((b"1", b"2"), 25, 0, "08P01"),
        ((None,), 25, 0, "22004"),
        ((b"\0",), 23, 1, "08P01"),
        ((b"\0\0\0\0",), 700, 1, "0A000"),
        ((b"\xff",), 25, 0, "22021"),
    ],
)
def test_parameters_that_cannot_be_read(
    parameters: tuple[bytes | None, ...], oid: int, format: int, sqlstate: str
) -> None:
    talk = talk_that_only_records()
    talk.hear(parse("s", "SET query_timeout = $1", (oid,)))
    assert error_of(talk.hear(bind("s", parameters=parameters, formats=(format,)), SYNC))["C"] == sqlstate
    assert talk.ran == []


def test_a_parameter_is_never_read_as_syntax() -> None:
    talk = Talk()
    talk.answers["PAUSE"] = Outcome()
    talk.hear(parse("s", "PAUSE $1"), bind("s", parameters=(b'a"; SHUTDOWN; --',)), execute(""), SYNC)
    assert vars(talk.ran[0]) == {"database": 'a"; SHUTDOWN; --'}


# -- what should not come ------------------------------------------------------------------------------------


def test_a_function_call_is_refused_and_answered() -> None:
    heard = Talk().hear(messages.message(ord("F"), b""))
    assert "".join(kind for kind, _ in heard) == "EZ"
    assert error_of(heard)["C"] == "0A000"


def test_remains_of_a_copy_are_passed_over() -> None:
    assert Talk().say(*(messages.message(ord(kind), b"x") for kind in "dcf")) == ""


@pytest.mark.parametrize("kind", ["p", "!", "Z"])
def test_a_message_no_client_sends_now_ends_the_session(kind: str) -> None:
    with pytest.raises(ProtocolViolation):
        Talk().hear(messages.message(ord(kind), b""))


def test_terminate() -> None:
    talk = Talk()
    assert talk.say(messages.TERMINATE) == ""
    assert talk.protocol.ended


WELL_FORMED = (
    query("BEGIN"),
    query("COMMIT"),
    query("SHOW LISTS; PAUSE"),
    query("DISCARD ALL"),
    parse("", "SHOW LISTS"),
    parse("s", "SHOW LISTS"),
    parse("s", "SET query_timeout = $1"),
    bind(),
    bind("s"),
    bind("s", "p"),
    bind("s", "p", (b"1",)),
    describe("S", "s"),
    describe("P", "p"),
    execute("", 3),
    execute("p", 3),
    close("S", "s"),
    close("P", "p"),
    SYNC,
    FLUSH,
)
MALFORMED = st.builds(messages.message, st.sampled_from(list(b"QPBDECSHF")), st.binary(max_size=40))


@settings(max_examples=300)
@given(st.lists(st.one_of(st.sampled_from(WELL_FORMED), MALFORMED), max_size=20))
def test_any_order_of_any_messages_is_answered(said: list[bytes]) -> None:
    """Nothing raises, at most one error comes before the next Sync, and afterwards all is as good as new."""
    talk = Talk()
    talk.answers = {"PAUSE": Outcome(error=Canceled()), "SET": Outcome()}
    heard = talk.say(*said, SYNC)
    assert heard[-1] == "Z"
    assert all(part.count("E") <= 1 for part in heard.split("Z"))
    assert talk.say(query("SELECT 1")) == "TDCZ"
