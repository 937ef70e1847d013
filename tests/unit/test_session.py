"""Session and Link without sockets: whatever happens at the gate, the client sees what it would see without it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings

from proxy.errors import ProxyError
from proxy.net import session as session_module
from proxy.net.link import Link
from proxy.net.session import HELD_LIMIT_BYTES, ClientSide, Session
from proxy.session.capture import SessionState
from proxy.session.replay import Run
from proxy.wire import messages
from proxy.wire.messages import message
from tests.support.conversation import extended, prepare
from tests.support.model_backend import COPY_IN_RESPONSE, ERROR, NOTIFICATION
from tests.support.relay import FakeTransport, Relay, make_link, make_route, make_session
from tests.unit.test_exchange import PIPELINES, SEEDS, Steps, _copies, _prepared, conversations

READY = messages.ready_for_query()
ANSWER = messages.row_description(["a"]) + messages.data_row(["1"]) + messages.command_complete("SELECT 1") + READY
FATAL = messages.error_response("FATAL", "57P01", "terminating connection due to administrator command")


# -- whole conversations -------------------------------------------------------------------------------------------


async def _transparent(steps: Steps, seed: int, *, swaps: bool) -> Relay:
    direct = Relay(seed)
    direct.play(steps, meddling=False, swaps=False)
    relay = Relay(seed + 1)
    relay.play(steps, meddling=True, swaps=swaps)
    assert bytes(relay.received) == bytes(direct.received)
    assert relay.backend.ran == direct.backend.ran
    assert not relay.session.held
    return relay


EVERYTHING = conversations(PIPELINES | _prepared() | _copies(["copyin", "copyin_bad"]), size=5)
WITH_EARLY_FAILURES = conversations(PIPELINES | _copies(["copyin", "copyin_early"]), size=5)


@settings(max_examples=150, deadline=None)
@given(EVERYTHING, SEEDS)
def test_gates_questions_and_swaps_are_not_seen(steps: Steps, seed: int) -> None:
    asyncio.run(_transparent(steps, seed, swaps=True))


@settings(max_examples=100, deadline=None)
@given(WITH_EARLY_FAILURES, SEEDS)
def test_a_stray_ready_is_the_clients_even_while_we_ask(steps: Steps, seed: int) -> None:
    asyncio.run(_transparent(steps, seed, swaps=False))


def test_the_schedules_do_meddle() -> None:
    """The property above would say nothing if nobody ever asked, stopped or swapped."""
    steps: Steps = [extended("ok"), messages.query("set"), None, prepare("ok", "s"), None] * 20
    relay = asyncio.run(_transparent(steps, 7, swaps=True))
    assert relay.swaps > 3
    assert relay.asked > 3
    assert relay.stops > 3


# -- single cases ----------------------------------------------------------------------------------------------------


class Bench:
    """One session with fake transports."""

    def __init__(self) -> None:
        self.route = make_route()
        self.client, self.server = FakeTransport(), FakeTransport()
        self.link = make_link(self.server)
        self.session = make_session(self.route, self.client, self.link)
        self.side = ClientSide(self.session)

    def twin(self) -> tuple[Link, FakeTransport]:
        transport = FakeTransport()
        twin = make_link(transport, 2)
        self.session.twin = twin
        return twin, transport


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_held_requests_go_out_in_order(bench: Bench) -> None:
    bench.session.stop()
    requests = messages.query("one") + messages.query("two")
    bench.side.data_received(requests)
    assert bench.server.take() == b""
    assert bench.session.held_since
    bench.session.let_go()
    assert bench.server.take() == requests
    assert not bench.session.slow


async def test_a_draining_session_sends_one_request_at_a_time(bench: Bench) -> None:
    bench.side.data_received(messages.query("begin"))
    bench.session.stop()
    bench.side.data_received(messages.query("one") + extended("two") + messages.query("three"))
    assert bench.server.take() == messages.query("begin")
    in_transaction = messages.command_complete("BEGIN") + messages.ready_for_query(ord("T"))
    bench.link.data_received(in_transaction)
    assert bench.server.take() == messages.query("one")
    bench.link.data_received(messages.command_complete("X") + messages.ready_for_query(ord("T")))
    assert bench.server.take() == extended("two")
    bench.link.data_received(messages.command_complete("COMMIT") + READY)
    assert bench.server.take() == b""
    assert bytes(bench.session.held) == messages.query("three")


async def test_a_held_client_is_read_up_to_a_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.session.stop()
    bench.side.data_received(messages.query("x" * HELD_LIMIT_BYTES))
    assert not bench.client.reading
    bench.session.let_go()
    assert bench.client.reading
    assert len(bench.server.take()) > HELD_LIMIT_BYTES
    bench.link.data_received(ANSWER)
    bench.session.stop()
    bench.side.data_received(messages.query("x" * HELD_LIMIT_BYTES))
    monkeypatch.setattr(session_module, "peer_has_left", lambda _transport: True)
    bench.session.let_go()
    assert bench.session.ended
    assert bench.server.take() == messages.TERMINATE


async def test_terminate_while_held_ends_the_session(bench: Bench) -> None:
    bench.session.stop()
    bench.side.data_received(messages.TERMINATE)
    assert bench.session.ended


@pytest.mark.parametrize(
    "request_bytes", [messages.query("a"), extended("a"), messages.SYNC], ids=["query", "extended", "sync"]
)
async def test_cancel_of_a_held_request(bench: Bench, request_bytes: bytes) -> None:
    bench.session.stop()
    bench.side.data_received(request_bytes + messages.query("next"))
    assert bench.session.cancel_held()
    answer = bench.client.take()
    assert b"57014" in answer
    assert answer.endswith(READY)
    assert bytes(bench.session.held) == messages.query("next")
    bench.session.let_go()
    assert bench.server.take() == messages.query("next")


async def test_cancel_of_half_a_request_waits(bench: Bench) -> None:
    bench.session.stop()
    bench.side.data_received(extended("a", sync=False))
    assert bench.session.cancel_held()
    assert bench.client.take() == b""
    assert bytes(bench.session.held) == extended("a", sync=False)


async def test_nothing_held_nothing_cancelled(bench: Bench) -> None:
    assert not bench.session.cancel_held()


async def test_a_prepared_batch_is_ended_at_the_gate(bench: Bench) -> None:
    bench.side.data_received(prepare("ok", "s"))
    bench.server.take()
    bench.session.stop()
    assert bench.server.take() == b"", "its answers have not come"
    answers = messages.PARSE_COMPLETE + messages.parameter_description([]) + messages.NO_DATA
    bench.link.data_received(answers)
    assert bench.client.take() == answers
    assert bench.server.take().endswith(messages.SYNC)
    assert not bench.session.exchange.quiet
    bench.side.data_received(messages.SYNC)
    bench.link.data_received(messages.CLOSE_COMPLETE + READY)
    assert bench.client.take() == b"", "the client has asked for no ReadyForQuery"
    assert bench.session.exchange.quiet
    assert bytes(bench.session.held) == messages.SYNC
    bench.session.let_go()
    assert bench.server.take() == messages.SYNC


async def test_a_prepared_batch_is_left_alone_otherwise(bench: Bench) -> None:
    bench.side.data_received(prepare("ok", "s"))
    bench.link.data_received(messages.PARSE_COMPLETE + messages.parameter_description([]) + messages.NO_DATA)
    bench.server.take()
    bench.side.data_received(messages.bind("", "s"))
    assert bench.server.take() == messages.bind("", "s")


# -- questions of ours -------------------------------------------------------------------------------------------------


async def _ask(bench: Bench) -> asyncio.Task[list[list[bytes | None]]]:
    task = asyncio.create_task(bench.link.ask([(b"SELECT 1", [])], statement=b"_ask", timeout_s=5))
    await asyncio.sleep(0)
    return task


OURS = messages.CLOSE_COMPLETE + messages.PARSE_COMPLETE + messages.BIND_COMPLETE + messages.data_row(["x"])


async def test_an_answer_is_ours_and_notifications_are_the_clients(bench: Bench) -> None:
    asking = await _ask(bench)
    told = messages.parameter_status("TimeZone", "UTC")
    notice = messages.notice_response("statement took long")
    everything = OURS + NOTIFICATION + notice + told + messages.command_complete("SELECT 1") + READY
    for position in range(len(everything)):
        bench.link.data_received(everything[position : position + 1])
    assert await asking == [[b"x"]]
    assert bench.client.take() == NOTIFICATION + told
    assert bench.session.told[b"TimeZone"] == b"UTC"


async def test_a_stray_ready_before_our_answer(bench: Bench) -> None:
    asking = await _ask(bench)
    bench.link.data_received(READY + OURS + messages.command_complete("SELECT 1") + READY)
    assert await asking == [[b"x"]]
    assert bench.client.take() == READY


async def test_a_question_that_was_given_up_still_comes_first(bench: Bench) -> None:
    asking = await _ask(bench)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    bench.server.take()
    bench.session.slow = True
    bench.side.data_received(messages.query("one"))
    assert bench.server.take() == b"", "its answer would be taken for ours"
    bench.link.data_received(OURS + messages.command_complete("SELECT 1") + READY)
    assert bench.client.take() == b""
    assert bench.server.take() == messages.query("one")


async def test_an_answer_from_inside_a_transaction_is_none(bench: Bench) -> None:
    asking = await _ask(bench)
    bench.link.data_received(OURS + messages.command_complete("SELECT 1") + messages.ready_for_query(ord("T")))
    with pytest.raises(ProxyError, match="the server is in a transaction"):
        await asking


async def test_an_answer_comes_although_the_client_reads_slowly(bench: Bench) -> None:
    bench.side.pause_writing()
    assert not bench.server.reading
    asking = await _ask(bench)
    assert bench.server.reading
    bench.link.data_received(OURS + READY)
    assert await asking == [[b"x"]]
    assert not bench.server.reading
    bench.side.resume_writing()
    assert bench.server.reading


async def test_a_twin_is_not_read_either_while_the_client_reads_slowly(bench: Bench) -> None:
    _, transport = bench.twin()
    bench.session.stop()
    bench.side.pause_writing()
    bench.session.take_twin()
    assert not transport.reading
    bench.side.resume_writing()
    assert transport.reading


async def test_a_statement_of_ours_leaves_nothing_behind(bench: Bench) -> None:
    twin, transport = bench.twin()
    running = asyncio.create_task(twin.run_items([Run("x", b"SELECT 1"), Run("y", b"SELECT 2")], 5))
    await asyncio.sleep(0)
    assert transport.take().count(messages.close("S", b"")) == 2
    twin.data_received(OURS + messages.CLOSE_COMPLETE + READY + ERROR + READY)
    first, second = await running
    assert first.error is None
    assert second.error_text == "no"


# -- links that go away ------------------------------------------------------------------------------------------------


async def test_last_words_are_kept_back_while_a_twin_may_take_over(bench: Bench) -> None:
    twin, _ = bench.twin()
    bench.session.stop()
    bench.route.keeps_lost_links = True
    bench.link.data_received(FATAL)
    bench.link.connection_lost(None)
    assert not bench.session.ended
    assert bench.client.take() == b""
    bench.session.take_twin()
    bench.route.keeps_lost_links = False
    bench.session.let_go()
    assert not bench.session.ended
    assert bench.client.take() == b""
    assert bench.session.link is twin


async def test_last_words_are_said_where_none_has(bench: Bench) -> None:
    bench.session.stop()
    bench.route.keeps_lost_links = True
    bench.link.data_received(FATAL)
    bench.link.connection_lost(None)
    bench.session.end_without_link()
    assert bench.client.take() == FATAL
    assert bench.session.ended


async def test_last_words_in_the_middle_of_a_question(bench: Bench) -> None:
    bench.session.stop()
    bench.route.keeps_lost_links = True
    asking = await _ask(bench)
    bench.link.data_received(FATAL)
    bench.link.connection_lost(None)
    with pytest.raises(Exception, match="the server closed the connection"):
        await asking
    assert bench.client.take() == b""
    assert bench.session.last_words == FATAL


async def test_last_words_at_any_other_time_are_passed_on(bench: Bench) -> None:
    bench.link.data_received(FATAL)
    assert bench.client.take() == FATAL
    bench.link.connection_lost(None)
    assert bench.session.ended


# -- what changes hands at a swap --------------------------------------------------------------------------------------


async def test_parameters_that_differ_are_told(bench: Bench) -> None:
    bench.session.told = {b"server_version": b"16.14", b"TimeZone": b"UTC"}
    twin, _ = bench.twin()
    twin.parameters.update({b"server_version": b"18.4", b"TimeZone": b"UTC", b"search_path": b"public"})
    bench.session.stop()
    assert bench.session.take_twin() is bench.link
    expected = messages.parameter_status("server_version", "18.4") + messages.parameter_status("search_path", "public")
    assert bench.client.take() == expected


async def test_half_a_message_on_the_twin_is_not_torn(bench: Bench) -> None:
    twin, _ = bench.twin()
    twin.data_received(NOTIFICATION + NOTIFICATION[:9])
    bench.session.stop()
    bench.session.take_twin()
    assert not bench.session.exchange.quiet
    twin.data_received(NOTIFICATION[9:])
    assert bench.client.take() == NOTIFICATION
    assert bench.session.exchange.quiet


async def test_a_busy_session_is_not_moved(bench: Bench) -> None:
    bench.twin()
    bench.side.data_received(messages.query("one"))
    with pytest.raises(AssertionError, match="quiet"):
        bench.session.take_twin()


# -- what a run has to ask for -----------------------------------------------------------------------------------------


def _clean(session: Session) -> None:
    session.dirty = session.sticky = False


@pytest.mark.parametrize(
    ("sent", "came", "dirty", "sticky"),
    [
        (messages.query("SELECT 1"), ANSWER, False, False),
        (messages.query("SET work_mem = 1"), messages.command_complete("SET") + READY, True, False),
        (messages.query("SELECT pg_advisory_lock(1)"), ANSWER, True, False),
        (extended("SELECT 1"), ANSWER, False, False),
        (extended("SELECT set_config('a', 'b', false)"), ANSWER, True, False),
        (extended("SELECT 1", name="n"), ANSWER, True, False),
        (extended("SELECT set_config('a', 'b', false)", name="n"), ANSWER, True, True),
        (messages.query("x" * 300_000), ANSWER, True, False),
        (extended("x" * 300_000), ANSWER, True, True),
        (b"", messages.parameter_status("TimeZone", "UTC"), True, False),
    ],
    ids=[
        "select",
        "set",
        "advisory lock",
        "unnamed",
        "unnamed set_config",
        "named",
        "named set_config",
        "query too long to see",
        "parse too long to see",
        "parameter",
    ],
)
async def test_what_may_have_changed_a_session(
    bench: Bench, sent: bytes, came: bytes, dirty: bool, sticky: bool
) -> None:
    _clean(bench.session)
    for at in range(0, len(sent), 50_000):
        bench.side.data_received(sent[at : at + 50_000])
    bench.link.data_received(came)
    assert bench.session.dirty is dirty
    assert bench.session.sticky is sticky
    assert not bench.session.opaque_names


async def test_a_set_whose_text_was_too_long_to_see(bench: Bench) -> None:
    text = messages.query("SET a.b = 1;" + " " * 300_000)
    bench.side.data_received(text[:100_000])
    bench.side.data_received(text[100_000:])
    bench.link.data_received(messages.command_complete("SET") + READY)
    assert bench.session.opaque_names


async def test_the_unnamed_statement_is_remembered_until_it_is_gone(bench: Bench) -> None:
    bench.side.data_received(messages.parse("", "SELECT $1", [23]))
    assert bench.session.unnamed_parse == messages.parse("", "SELECT $1", [23])[5:]
    bench.side.data_received(messages.parse("named", "SELECT 2"))
    assert bench.session.unnamed_parse is not None
    bench.side.data_received(messages.query("SELECT 1"))
    assert bench.session.unnamed_parse is None


async def test_names_of_options_among_the_parameters(bench: Bench) -> None:
    bench.side.data_received(messages.parse("n", "SELECT set_config($1, $2, false)"))
    bench.side.data_received(messages.bind("", "n", ["My.Option", "not.this"]))
    assert bench.route.vocabulary.names == {b"my.option"}
    bench.side.data_received(messages.parse("n2", "SELECT $1") + messages.bind("", "n2", ["nor.this"]))
    bench.side.data_received(messages.bind("", "n", []))  # the server refuses it
    bench.side.data_received(message(ord("B"), b"garbage"))
    assert bench.route.vocabulary.names == {b"my.option"}


async def test_a_malformed_parameter_is_passed_on(bench: Bench) -> None:
    malformed = message(ord("S"), b"no zero bytes")
    bench.link.data_received(malformed)
    assert bench.client.take() == malformed


async def test_a_session_that_was_moved_is_asked_anew(bench: Bench) -> None:
    bench.twin()
    _clean(bench.session)
    bench.session.twin_state = SessionState(role=b"x")
    bench.session.stop()
    bench.session.take_twin()
    assert bench.session.dirty
    assert bench.session.twin_state == SessionState()


async def test_copy_data_of_a_draining_session_pass(bench: Bench) -> None:
    bench.side.data_received(messages.query("COPY t FROM STDIN"))
    bench.link.data_received(COPY_IN_RESPONSE)
    bench.session.stop()
    bench.server.take()
    rest = message(ord("d"), b"1\n") + message(ord("c"))
    bench.side.data_received(rest + messages.query("next"))
    assert bench.server.take() == rest
    assert bytes(bench.session.held) == messages.query("next")
