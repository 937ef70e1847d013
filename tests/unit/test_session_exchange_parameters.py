"""ParameterStatus is seen whole, however long it is and wherever it is cut."""

from __future__ import annotations

import pytest

from proxy.session.exchange import Exchange
from proxy.wire import messages


@pytest.mark.parametrize("length", [10, 8_000, 9_000, 200_000])
@pytest.mark.parametrize("size", [997, 8_192, 1_000_000])
def test_parameters_of_any_length(length: int, size: int) -> None:
    seen: list[bytes] = []
    exchange = Exchange(lambda _kind, _body: None, lambda _tag: None, seen.append)
    exchange.client(messages.query("SET search_path = ..."))
    body = messages.parameter_status("search_path", "s" * length)
    data = messages.command_complete("SET") + body + messages.ready_for_query()
    for position in range(0, len(data), size):
        exchange.server(data[position : position + size])
    assert seen == [body[5:]]
    assert exchange.quiet


def test_a_message_half_way_is_no_place_for_one_of_ours() -> None:
    exchange = Exchange(lambda _kind, _body: None, lambda _tag: None, lambda _body: None)
    exchange.client(messages.query("SELECT 1"))
    row = messages.data_row(["x" * 1000])
    for cut in (1, 4, 5, 6, 900):
        exchange.server(row[:cut])
        assert not exchange.between_messages
        exchange.server(row[cut:])
        assert exchange.between_messages


def test_half_a_message_of_the_client() -> None:
    exchange = Exchange(lambda _kind, _body: None, lambda _tag: None, lambda _body: None)
    whole = messages.query("SELECT 1")
    for cut in (1, 4, 5, 6, len(whole) - 1):
        exchange.client(whole[:cut])
        assert not exchange.sent_whole
        exchange.client(whole[cut:])
        assert exchange.sent_whole


def test_working() -> None:
    exchange = Exchange(lambda _kind, _body: None, lambda _tag: None, lambda _body: None)
    assert not exchange.working
    exchange.client(messages.query("SELECT 1"))
    assert exchange.working
    exchange.client(messages.TERMINATE)
    assert not exchange.working, "a client that says goodbye wants its last request done"
    exchange.reset()
    exchange.client(messages.query("BEGIN"))
    exchange.server(messages.command_complete("BEGIN") + messages.ready_for_query(0x54))
    assert not exchange.working
    exchange.client(messages.execute(""))
    assert exchange.working
