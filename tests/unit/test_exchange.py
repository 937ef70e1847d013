"""Exchange against a model backend: `quiet` exactly when everything is answered, whatever the chunking."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.session.exchange import IDLE, Exchange
from proxy.wire import messages
from proxy.wire.framing import messages_in
from proxy.wire.messages import message
from tests.support.conversation import (
    COPY_HAS_FAILED,
    COPY_IS_DONE,
    COPY_ROWS,
    WAIT,
    WAIT_FOR_COPY,
    Heard,
    Wire,
    extended,
    function_call,
    prepare,
)
from tests.support.model_backend import ERROR

WORDS = st.sampled_from(["ok", "set", "notice", "error", "parse_error", "copyout", ""])
SEEDS = st.integers(0, 2**32)
Steps = list[bytes | str | None]


def _steps(*steps: bytes | str | None) -> Steps:
    return list(steps)


def _queries() -> st.SearchStrategy[Steps]:
    several = st.lists(WORDS, min_size=1, max_size=3).map("; ".join)
    return several.map(lambda text: _steps(messages.query(text)))


def _batches(*, ends: bytes = messages.SYNC) -> st.SearchStrategy[Steps]:
    one = st.builds(
        lambda word, describe, portal: (
            messages.parse("", word)
            + messages.bind(portal, "")
            + (messages.describe("P", portal) if describe else b"")
            + messages.execute(portal, 0)
        ),
        WORDS,
        st.booleans(),
        st.sampled_from(["", "p"]),
    )
    flushed = st.tuples(one, st.sampled_from([b"", messages.FLUSH])).map(b"".join)
    return st.lists(flushed, min_size=1, max_size=3).map(lambda parts: [b"".join(parts) + ends])


def _transactions() -> st.SearchStrategy[Steps]:
    end = st.sampled_from(["commit", "rollback"])
    return st.builds(
        lambda simple, word, last: (
            [messages.query("begin"), messages.query(word), messages.query(last)]
            if simple
            else [extended("begin"), extended(word), extended(last)]
        ),
        st.booleans(),
        WORDS,
        end,
    )


def _prepared() -> st.SearchStrategy[Steps]:
    """Parse, Describe, Flush, a pause, then Bind, Execute, Sync; or nothing more but a Sync or a Query."""
    then = st.sampled_from(
        [
            messages.bind("", "s") + messages.execute("", 0) + messages.SYNC,
            messages.SYNC,
            messages.query("ok"),
            function_call(),
        ]
    )
    close = messages.close("S", "s") + messages.FLUSH
    return st.tuples(st.sampled_from(["ok", "set", ""]), then, st.booleans()).map(
        lambda drawn: [close + prepare(drawn[0], "s"), WAIT if drawn[2] else b"", drawn[1]]
    )


def _copies(words: list[str]) -> st.SearchStrategy[Steps]:
    ending = st.sampled_from([COPY_IS_DONE, COPY_HAS_FAILED])
    rows = st.sampled_from([b"", COPY_ROWS, messages.FLUSH + COPY_ROWS])
    simple = st.tuples(st.sampled_from([*words, "copyin; ok"]), rows, ending).map(
        lambda drawn: [WAIT, "clear", messages.query(drawn[0]), WAIT_FOR_COPY, drawn[1], drawn[2], WAIT]
    )
    syncs = st.sampled_from([messages.SYNC, messages.SYNC * 2, b""])
    over_extended = st.tuples(st.sampled_from(words), syncs, rows, ending).map(
        lambda drawn: [
            WAIT,
            "clear",
            extended(drawn[0], sync=False) + (drawn[1] or messages.FLUSH),
            WAIT_FOR_COPY,
            drawn[2],
            drawn[3],
            messages.SYNC,
        ]
    )
    return simple | over_extended


def conversations(parts: st.SearchStrategy[Steps], size: int = 7) -> st.SearchStrategy[Steps]:
    joined = st.tuples(parts, st.sampled_from([[], [WAIT]])).map(lambda pair: pair[0] + pair[1])
    return st.lists(joined, min_size=1, max_size=size).map(lambda lists: [step for steps in lists for step in steps])


_SYNCS = st.just([messages.SYNC])
_CALLS = st.booleans().map(lambda fails: [function_call(fails=fails)])
PIPELINES = _queries() | _batches() | _transactions() | _SYNCS | _CALLS
EVERYTHING = PIPELINES | _prepared().map(lambda steps: [WAIT, *steps]) | _copies(["copyin", "copyin_bad"])


def _play(wire: Wire, steps: Steps) -> None:
    """Play a conversation; `quiet` may be true only when it is."""
    part: Steps = []
    for step in [*steps, "clear"]:
        if step != "clear":
            part.append(step)
            continue
        for _ in wire.play(part):
            assert wire.truly_quiet or not wire.exchange.quiet, "taken for quiet while it is busy"
        part.clear()
        wire.forget_received()


@settings(max_examples=400, deadline=None)
@given(conversations(EVERYTHING), SEEDS)
def test_quiet_exactly_when_everything_is_answered(steps: Steps, seed: int) -> None:
    wire = Wire(seed)
    _play(wire, steps)
    assert not wire.backend.dead
    assert wire.truly_quiet
    assert wire.exchange.quiet, "a session that is quiet is taken for busy"
    assert wire.exchange.at_boundary
    assert wire.exchange.owed == 0


@settings(max_examples=200, deadline=None)
@given(conversations(_copies(["copyin", "copyin_bad", "copyin_early"]) | PIPELINES), SEEDS)
def test_a_copy_that_fails_before_it_reads(steps: Steps, seed: int) -> None:
    """The Sync behind its Execute is answered after all. Quiet while only that answer is missing, never while
    something runs."""
    wire = Wire(seed)
    part: Steps = []
    for step in [*steps, "clear"]:
        if step != "clear":
            part.append(step)
            continue
        for _ in wire.play(part):
            assert wire.truly_quiet or wire.nothing_runs or not wire.exchange.quiet
        part.clear()
        wire.forget_received()
    # Two ordinary requests later at the latest nothing is in doubt any more.
    for _ in wire.play([messages.query("ok"), WAIT, extended("ok"), WAIT]):
        assert wire.nothing_runs or not wire.exchange.quiet
    assert wire.truly_quiet
    assert wire.exchange.quiet


def test_a_stray_ready_does_not_answer_the_next_request() -> None:
    exchange = Heard().exchange()
    exchange.client(extended("copyin_early"))
    exchange.server(messages.PARSE_COMPLETE + messages.BIND_COMPLETE + messages.NO_DATA + message(ord("G"), b"\0\0\0"))
    exchange.server(ERROR)
    exchange.client(COPY_ROWS + COPY_IS_DONE + messages.SYNC + messages.query("ok") + messages.query("ok"))
    ready = messages.ready_for_query()
    for answer in (ready, ready, messages.command_complete("SELECT 1") + ready, messages.command_complete("SELECT 1")):
        exchange.server(answer)
        assert not exchange.quiet
    exchange.server(ready)
    assert exchange.quiet


@settings(max_examples=200, deadline=None)
@given(
    conversations(
        PIPELINES
        | _batches(ends=b"")
        | _prepared()
        | st.sampled_from([[COPY_IS_DONE], [COPY_ROWS], [messages.query("copyin"), COPY_ROWS, COPY_IS_DONE]])
        | st.sampled_from([[extended("copyin", sync=False), COPY_ROWS, COPY_IS_DONE, messages.SYNC]])
    ),
    SEEDS,
)
def test_never_quiet_too_early_even_for_clients_that_do_not_wait(steps: Steps, seed: int) -> None:
    """Queries behind unsynced messages, COPY data sent blindly: busy for too long is allowed, quiet is not."""
    wire = Wire(seed)
    for _ in wire.play([step for step in steps if step is not WAIT]):
        assert wire.truly_quiet or wire.backend.dead or wire.nothing_runs or not wire.exchange.quiet


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.sampled_from([messages.query("copyin"), extended("copyin", sync=False)]))
def test_copy_data_sent_blindly(seed: int, request: bytes) -> None:
    """A client that does not wait for CopyInResponse: its end is counted all the same."""
    wire = Wire(seed)
    end = b"" if request[:1] == b"Q" else messages.SYNC
    for _ in wire.play([request, COPY_ROWS, COPY_IS_DONE, end]):
        assert wire.truly_quiet or not wire.exchange.quiet
    assert wire.truly_quiet
    assert wire.exchange.quiet


# -- a Sync of our own behind a Parse without one -----------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["parse", "describe", "close", "again"]), min_size=1, max_size=5),
    st.booleans(),
    SEEDS,
)
def test_prepared_only_once_everything_is_answered(parts: list[str], fails: bool, seed: int) -> None:
    wire = Wire(seed, largest_piece=7)
    batch = messages.parse("s", "ok")
    for number, part in enumerate(parts):
        if part == "parse":
            batch += messages.parse(f"n{number}", "parse_error" if fails else "ok")
        elif part == "describe":
            batch += messages.describe("S", "s")
        elif part == "close":
            batch += messages.close("S", "other")
        else:
            batch += messages.FLUSH
    broken = fails and "parse" in parts
    for _ in wire.play([batch + messages.FLUSH]):
        if wire.exchange.prepared_only:
            assert not wire.backend.skipping
            assert set(wire.backend.inbox) <= set(messages.FLUSH)
            assert all(kind in b"NSA" for kind, _, _ in messages_in(bytes(wire.backend.sent)))
            assert not wire.half_delivered
    assert wire.exchange.prepared_only is not broken
    assert not wire.exchange.quiet
    if not broken:
        wire.exchange.synced_for_client()
        assert not wire.exchange.quiet
        assert wire.exchange.at_boundary
        assert not wire.exchange.prepared_only
        wire.exchange.server(messages.ready_for_query())
        assert wire.exchange.quiet


@pytest.mark.parametrize(
    "batch",
    [
        messages.parse("s", "ok") + messages.bind("", "s"),
        messages.parse("s", "ok") + messages.bind("", "s") + messages.execute(""),
        messages.bind("", "s"),
        messages.parse("", "ok") + messages.bind("", "") + messages.describe("P", ""),
        messages.close("P", ""),
    ],
)
def test_a_batch_with_a_portal_is_the_clients_to_end(batch: bytes) -> None:
    wire = Wire(1)
    wire.backend.statements[b"s"] = "ok"
    for _ in wire.play([batch + messages.FLUSH]):
        assert not wire.exchange.prepared_only
    assert not wire.exchange.quiet


def test_prepared_only_not_inside_a_transaction() -> None:
    wire = Wire(1)
    list(wire.play([messages.query("begin"), WAIT, prepare("ok", "s")]))
    assert not wire.exchange.prepared_only


def test_answers_to_an_earlier_batch_do_not_count() -> None:
    """The second Parse is still unanswered when the first batch's ReadyForQuery comes."""
    exchange = Heard().exchange()
    exchange.client(extended("ok") + prepare("ok", "s"))
    exchange.server(messages.PARSE_COMPLETE + messages.BIND_COMPLETE + messages.row_description(["a"]))
    exchange.server(messages.command_complete("SELECT 0") + messages.ready_for_query())
    assert not exchange.prepared_only
    exchange.server(messages.PARSE_COMPLETE + messages.parameter_description([]) + messages.row_description(["a"]))
    assert exchange.prepared_only


# -- units ---------------------------------------------------------------------------------------------------------

REQUEST_ENDS = b"QSF"


@settings(max_examples=300, deadline=None)
@given(conversations(EVERYTHING), SEEDS)
def test_units_end_at_request_boundaries(steps: Steps, seed: int) -> None:
    """From any state the conversation goes through, with any number of bytes waiting."""
    wire = Wire(seed)
    chooser = random.Random(seed)
    for _ in wire.play([step for step in steps if step != "clear"]):
        if not wire.to_send or chooser.random() < 0.5:
            continue
        exchange = wire.exchange
        began_inside = not exchange.at_boundary
        waiting = bytes(wire.to_send[: chooser.randint(1, len(wire.to_send))])
        length = exchange.unit_length(waiting)
        assert 0 < length <= len(waiting)
        before = len(wire.to_send)
        wire.exchange.client(waiting[:length])
        wire.backend.feed(waiting[:length])
        del wire.to_send[:length]
        assert len(wire.to_send) == before - length
        if length < len(waiting):
            assert exchange.at_boundary, "cut inside a request"
            if not began_inside:
                ends = [kind for kind, _, _ in messages_in(waiting[:length]) if kind in REQUEST_ENDS]
                assert len(ends) == 1, "two requests in one unit"


def test_unit_of_a_copy_ends_behind_its_end() -> None:
    wire = Wire(3)
    list(wire.play([messages.query("copyin"), WAIT]))
    after = messages.query("ok")
    for end in (COPY_IS_DONE, COPY_HAS_FAILED):
        for cut in range(len(end)):
            exchange = Heard().exchange()
            exchange.client(messages.query("copyin"))
            exchange.server(message(ord("G"), b"\0\0\0"))
            exchange.client(COPY_ROWS + end[:cut])
            waiting = end[cut:] + after
            assert exchange.unit_length(waiting) == len(end) - cut


def test_unit_of_a_copy_in_the_extended_protocol_ends_behind_its_sync() -> None:
    exchange = Heard().exchange()
    exchange.client(extended("copyin"))
    exchange.server(messages.PARSE_COMPLETE + messages.BIND_COMPLETE + message(ord("G"), b"\0\0\0"))
    unit = COPY_ROWS + COPY_IS_DONE + messages.SYNC
    assert exchange.unit_length(unit + messages.query("ok")) == len(unit)


# -- what is reported ------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(SEEDS, st.integers(0, 5000))
def test_statements_are_reported_whole(seed: int, padding: int) -> None:
    wire = Wire(seed, largest_piece=700)
    wire.exchange.on_bind = wire.heard.binds.append
    text = "ok" + " " * padding
    parse = messages.parse("n", text)
    bind = messages.bind("", "n", ["x" * padding])
    list(wire.play([messages.query(text), parse + bind + messages.SYNC, WAIT]))
    assert wire.heard.statements == [(ord("Q"), text.encode()), (ord("P"), parse[5:])]
    assert wire.heard.binds == [bind[5:]]


def test_a_statement_too_long_to_keep_is_reported_as_unseen() -> None:
    heard = Heard()
    exchange = heard.exchange()
    exchange.on_bind = heard.binds.append
    long = "x" * 300_000
    for whole in (messages.query(long), messages.parse("", long), messages.bind("", "", [long])):
        for at in range(0, len(whole), 65536):
            exchange.client(whole[at : at + 65536])
    assert heard.statements == [(ord("Q"), None), (ord("P"), None)]
    assert heard.binds == [None]


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ("SELECT 1", False),
        ("INSERT 0 1", False),
        ("COMMIT", False),
        ("COPY 5", False),
        ("SET", True),
        ("RESET", True),
        ("LISTEN", True),
        ("UNLISTEN", True),
        ("PREPARE", True),
        ("DEALLOCATE", True),
        ("DISCARD ALL", True),
        ("CREATE TABLE", True),
        ("DECLARE CURSOR", True),
        ("CLOSE CURSOR", True),
        ("DO", True),
        ("CALL", True),
        ("LOAD", True),
    ],
)
def test_tags_that_may_have_changed_the_session(tag: str, told: bool) -> None:
    heard = Heard()
    heard.exchange().server(messages.command_complete(tag))
    assert heard.tags == ([tag.encode()] if told else [])


def test_parameters_are_reported_whole() -> None:
    heard = Heard()
    exchange = heard.exchange()
    told = messages.parameter_status("search_path", "s" * 50_000)
    for at in range(0, len(told), 999):
        exchange.server(told[at : at + 999])
    assert heard.parameters == [told[5:]]
    assert exchange.quiet


# -- garbage ---------------------------------------------------------------------------------------------------------

CHUNKS = st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=60)), max_size=60)
FRAGMENTS = st.lists(
    st.tuples(
        st.booleans(),
        st.builds(
            lambda kind, length, body: bytes([kind]) + length.to_bytes(4, "big") + body,
            st.sampled_from(list(b"QSPBDECHFXcdfpZEGWCSTn123IVA\0\xff")),
            st.sampled_from([0, 1, 3, 4, 5, 8, 20, 8192, 8193, 2**20, 2**31, 2**32 - 1]),
            st.binary(max_size=24),
        ),
    ),
    max_size=60,
)


@settings(max_examples=500, deadline=None)
@given(CHUNKS | FRAGMENTS)
def test_garbage_raises_nothing_and_keeps_little(chunks: list[tuple[bool, bytes]]) -> None:
    heard = Heard()
    exchange = heard.exchange()
    exchange.on_bind = heard.binds.append
    client_bytes = server_bytes = 0
    for from_client, data in chunks:
        length = exchange.unit_length(data)
        assert 0 < length <= len(data)
        if from_client:
            exchange.client(data)
            client_bytes += len(data)
        else:
            exchange.server(data)
            server_bytes += len(data)
        assert isinstance(exchange.quiet, bool)
        assert isinstance(exchange.prepared_only, bool)
        assert len(exchange._client_head) <= 5
        assert len(exchange._server_head) <= server_bytes
        assert exchange.owed <= client_bytes // 5 + 1


def _kept(exchange: Exchange) -> int:
    text = exchange._text
    return len(exchange._client_head) + len(exchange._server_head) + exchange.owed + (len(text) if text else 0)


@pytest.mark.parametrize(
    "repeated",
    [COPY_IS_DONE, COPY_HAS_FAILED, COPY_ROWS, messages.FLUSH, messages.parse("", "ok"), messages.bind("", "")],
)
@pytest.mark.parametrize("before", [b"", messages.query("ok"), messages.parse("", "ok")])
def test_what_is_never_answered_is_not_counted(before: bytes, repeated: bytes) -> None:
    exchange = Heard().exchange()
    exchange.client(before)
    for _ in range(1000):
        exchange.client(repeated)
    assert _kept(exchange) <= 2


def test_huge_messages_are_not_kept() -> None:
    exchange = Heard().exchange()
    megabytes = b"\0" * (1 << 20)
    exchange.client(b"P" + (2**31 - 1).to_bytes(4, "big"))
    exchange.server(b"C" + (2**31 - 1).to_bytes(4, "big"))
    for _ in range(8):
        exchange.client(megabytes)
        exchange.server(megabytes)
    assert _kept(exchange) == 0
    assert not exchange.quiet


def test_a_server_that_does_not_speak_the_protocol_is_never_quiet() -> None:
    exchange = Heard().exchange()
    exchange.server(b"Z\0\0\0\4" + messages.ready_for_query())
    assert exchange.broken
    assert not exchange.quiet
    assert not exchange.between_messages


def test_after_terminate_nothing_is_quiet() -> None:
    exchange = Heard().exchange()
    exchange.client(messages.TERMINATE)
    assert not exchange.quiet
    assert not exchange.working


def test_reset_forgets_everything() -> None:
    exchange = Heard().exchange()
    exchange.client(messages.query("copyin") + prepare("ok", "s") + b"Q\0")
    exchange.server(message(ord("G"), b"\0\0\0") + b"Z")
    exchange.reset()
    assert exchange.quiet
    assert exchange.at_boundary
    assert not exchange.prepared_only
    assert exchange.status == IDLE


def test_counters() -> None:
    wire = Wire(5)
    list(wire.play([messages.query("ok"), extended("ok"), function_call(), messages.query("error"), WAIT]))
    assert wire.exchange.queries == 4
    assert wire.exchange.transactions == 4
    assert wire.exchange.errors == 1
