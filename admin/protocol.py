"""The conversation of one admin session. Pure: a message in; steps out.

`ConsoleProtocol.handle` is a generator for one message. It yields `Send(bytes)` and `Run(statement)`; whoever
drives it writes the bytes, runs the statement, and sends back the `Outcome` of a Run (None for a Send). So
the order of everything a client sees is written here, top-down, while waiting happens elsewhere.

Simple protocol. The whole text is parsed before any of it runs. The statements run one after another; the
first error ends the rest. ReadyForQuery comes last, once.

Extended protocol. An error makes everything up to the next Sync be passed over in silence (protocol-flow,
"Extended Query"). A portal runs at its first Execute; a row limit hands out its rows in pieces. Portals end
with the transaction, and outside of one with Sync.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Final

from proxy.errors import ProtocolViolation, ProxyError
from proxy.wire import messages
from proxy.wire.codes import ClientMessage

from . import requests
from .errors import (
    PortalExists,
    PortalSpent,
    StatementExists,
    SyntaxProblem,
    UnknownPortal,
    UnknownStatement,
    Unsupported,
)
from .lexer import statements
from .parameters import parameter_oids, parameter_texts
from .parser import parse_script, parse_statement
from .requests import formats
from .result import TEXT_FORMAT, Rows, data_rows, row_description
from .session import ConsoleSession, Portal, Prepared
from .statement import Statement


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True)
class Run:
    statement: Statement


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a Run."""

    rows: Rows = ()
    error: ProxyError | None = field(default=None)


Steps = Generator[Send | Run, Outcome | None, None]

_COPY: Final = frozenset((ClientMessage.COPY_DATA, ClientMessage.COPY_DONE, ClientMessage.COPY_FAIL))
_EXTENDED: Final = frozenset(
    (
        ClientMessage.PARSE,
        ClientMessage.BIND,
        ClientMessage.DESCRIBE,
        ClientMessage.EXECUTE,
        ClientMessage.CLOSE,
    )
)
_KNOWN: Final = _COPY | _EXTENDED | {ClientMessage.FLUSH, ClientMessage.QUERY, ClientMessage.FUNCTION_CALL}


class ConsoleProtocol:
    """`ended` is set when the client has said goodbye."""

    def __init__(self, session: ConsoleSession) -> None:
        self.session = session
        self.ended = False
        self._skipping = False
        self._extended = {
            ClientMessage.PARSE: self._parse,
            ClientMessage.BIND: self._bind,
            ClientMessage.DESCRIBE: self._describe,
            ClientMessage.EXECUTE: self._execute,
            ClientMessage.CLOSE: self._close,
        }

    def greeting(self, cancel_key: bytes) -> bytes:
        """What follows AuthenticationOk."""
        reported = self.session.settings.reported()
        return (
            b"".join(messages.parameter_status(name, value) for name, value in reported)
            + messages.backend_key_data(self.session.pid, cancel_key)
            + self._ready()
        )

    def handle(self, kind: int, body: bytes) -> Steps:
        """Raises ProtocolViolation for a type of message that no client sends at this point."""
        if kind == ClientMessage.TERMINATE:
            self.ended = True
        elif kind == ClientMessage.SYNC:
            yield from self._sync()
        elif kind not in _KNOWN:
            raise ProtocolViolation(f"invalid frontend message type {kind}")
        elif self._skipping or kind in _COPY or kind == ClientMessage.FLUSH:
            # Nothing is kept back, so there is nothing to flush. Remains of a COPY that failed are passed
            # over (PostgreSQL: PostgresMain).
            return
        elif kind == ClientMessage.QUERY:
            yield from self._simple_query(body)
        elif kind == ClientMessage.FUNCTION_CALL:
            yield Send(error_message(Unsupported("the console has no functions to call")) + self._ready())
        else:
            try:
                yield from self._extended[kind](body)
            except ProxyError as error:
                self._skipping = True
                yield Send(error_message(error))

    # -- simple query ----------------------------------------------------------------------------------------

    def _simple_query(self, body: bytes) -> Steps:
        self.session.prepared.pop("", None)
        self.session.portals.pop("", None)
        try:
            script = parse_script(requests.query(body))
            if not script:
                yield Send(messages.EMPTY_QUERY_RESPONSE)
            for statement in script:
                yield from self._run_simply(statement)
        except ProxyError as error:
            yield Send(error_message(error))
        yield Send(self._ready())

    def _run_simply(self, statement: Statement) -> Steps:
        rows = yield from self._run(statement)
        described = statement.described()
        if described is not None:
            text = (TEXT_FORMAT,) * len(described)
            yield Send(row_description(described, text))
            for chunk in data_rows(described, rows, text):
                yield Send(chunk)
        yield Send(self._complete(statement, len(rows)))

    def _run(self, statement: Statement) -> Generator[Send | Run, Outcome | None, Rows]:
        outcome = yield Run(statement)
        assert outcome is not None, "the driver answers every Run"
        if outcome.error is not None:
            raise outcome.error
        if statement.changes and self.session.in_transaction:
            self.session.effects.append(statement.completion(len(outcome.rows)))
        return outcome.rows

    def _complete(self, statement: Statement, row_count: int) -> bytes:
        changed = self.session.settings.take_pending()
        return b"".join(messages.parameter_status(name, value) for name, value in changed) + messages.command_complete(
            statement.completion(row_count)
        )

    # -- extended query --------------------------------------------------------------------------------------

    def _parse(self, body: bytes) -> Steps:
        request = requests.parse(body)
        if request.statement and request.statement in self.session.prepared:
            raise StatementExists(request.statement)
        if not request.statement:
            self.session.prepared.pop("", None)
        found = statements(request.query)
        if len(found) > 1:
            raise SyntaxProblem("cannot insert multiple commands into a prepared statement")
        text = found[0] if found else None
        prepared = Prepared(
            text=text,
            template=parse_statement(text) if text is not None else None,
            parameter_oids=parameter_oids(request.parameter_oids, text.parameter_count if text is not None else 0),
        )
        self.session.keep_prepared(request.statement, prepared)
        yield Send(messages.PARSE_COMPLETE)

    def _bind(self, body: bytes) -> Steps:
        request = requests.bind(body)
        prepared = self._prepared(request.statement)
        if request.portal and request.portal in self.session.portals:
            raise PortalExists(request.portal)
        texts = parameter_texts(request, prepared.parameter_oids)
        statement = parse_statement(prepared.text, texts) if prepared.text is not None else None
        described = statement.described() if statement is not None else None
        codes = formats(request.result_formats, len(described)) if described is not None else ()
        self.session.keep_portal(request.portal, Portal(statement, codes))
        yield Send(messages.BIND_COMPLETE)

    def _describe(self, body: bytes) -> Steps:
        request = requests.named(body)
        if request.of_statement:
            prepared = self._prepared(request.name)
            yield Send(messages.parameter_description(prepared.parameter_oids))
            described = prepared.template.described() if prepared.template is not None else None
            codes: tuple[int, ...] = (TEXT_FORMAT,) * len(described or ())
        else:
            portal = self._portal(request.name)
            described = portal.statement.described() if portal.statement is not None else None
            codes = portal.formats
        yield Send(messages.NO_DATA if described is None else row_description(described, codes))

    def _execute(self, body: bytes) -> Steps:
        request = requests.execute(body)
        portal = self._portal(request.portal)
        statement = portal.statement
        if statement is None:
            yield Send(messages.EMPTY_QUERY_RESPONSE)
            return
        described = statement.described()
        if not portal.started:
            portal.started = True
            portal.rows = yield from self._run(statement)
        if portal.rows is None or (portal.completed and described is None):
            raise PortalSpent(request.portal)
        limit = request.row_limit or len(portal.rows)
        now, portal.rows = portal.rows[:limit], portal.rows[limit:]
        for chunk in data_rows(described or (), now, portal.formats):
            yield Send(chunk)
        portal.completed = not portal.rows
        yield Send(self._complete(statement, len(now)) if portal.completed else messages.PORTAL_SUSPENDED)

    def _close(self, body: bytes) -> Steps:
        request = requests.named(body)
        if request.of_statement:
            self.session.prepared.pop(request.name, None)
        else:
            self.session.portals.pop(request.name, None)
        yield Send(messages.CLOSE_COMPLETE)

    def _sync(self) -> Iterator[Send]:
        self._skipping = False
        if not self.session.in_transaction:
            self.session.portals.clear()
        yield Send(self._ready())

    # -- helpers ---------------------------------------------------------------------------------------------

    def _prepared(self, name: str) -> Prepared:
        prepared = self.session.prepared.get(name)
        if prepared is None:
            raise UnknownStatement(name)
        return prepared

    def _portal(self, name: str) -> Portal:
        portal = self.session.portals.get(name)
        if portal is None:
            raise UnknownPortal(name)
        return portal

    def _ready(self) -> bytes:
        return messages.ready_for_query(self.session.status)


def error_message(error: ProxyError) -> bytes:
    """The ErrorResponse that answers a statement: its severity is ERROR whatever the error does elsewhere."""
    return messages.error_response("ERROR", error.sqlstate, error.message, detail=error.detail, hint=error.hint)
