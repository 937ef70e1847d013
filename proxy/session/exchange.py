"""Which answers are owed on one session, followed from the bytes that pass in both directions.

Theory of operation
-------------------
A session may be held, asked or moved only when it is *quiet*: PostgreSQL owes no answer, no transaction is
open, no COPY is under way and no message is half transferred. This file is the only place that decides it.

Answers owed. Query, Sync and FunctionCall are each answered by exactly one ReadyForQuery (PostgreSQL
documentation, 55.2 Message Flow). `_owed` is the queue of those sent and not yet answered. Extended-query
messages (Parse, Bind, Describe, Execute, Close) open an implicit transaction that only a Sync ends, so after
one of them the session is `unsynced` until its Sync is sent.

COPY FROM STDIN is the exception to "each Sync is answered": while the server reads copy data it ignores Sync
and Flush (backend/commands/copyfromparse.c, CopyGetData). Drivers that run COPY through the extended protocol
send Execute and Sync in one go, so that first Sync vanishes and the one after CopyDone is answered. When
CopyInResponse arrives, the Syncs that follow the Execute without any other message between are therefore taken
off the queue, and Syncs sent before CopyDone or CopyFail are not put on it.

Errors of judgement are allowed in one direction only: a session may be thought busy while it is quiet (the
run then waits and names it), never the reverse.

Splitting. While a gate drains, the relay forwards one request at a time (`unit_length`) and decides anew
after its ReadyForQuery; so a pipeline cannot run past a gate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

IDLE = 0x49  # 'I'
IN_TRANSACTION = 0x54  # 'T'
FAILED = 0x45  # 'E'

_QUERY, _SYNC, _FUNCTION_CALL = 0x51, 0x53, 0x46  # Q S F
_PARSE, _BIND, _DESCRIBE, _EXECUTE, _CLOSE = 0x50, 0x42, 0x44, 0x45, 0x43  # P B D E C
_COPY_DONE, _COPY_FAIL = 0x63, 0x66  # c f
_TERMINATE = 0x58  # X
_EXTENDED = frozenset((_PARSE, _BIND, _DESCRIBE, _EXECUTE, _CLOSE))

_READY, _COPY_IN, _COPY_BOTH, _ERROR = 0x5A, 0x47, 0x57, 0x45  # Z G W E
_COMMAND_COMPLETE, _PARAMETER_STATUS = 0x43, 0x53  # C S
_SEEN_FROM_SERVER = frozenset((_READY, _COPY_IN, _COPY_BOTH, _ERROR, _COMMAND_COMPLETE, _PARAMETER_STATUS))

_WHOLE_BYTES = 8192
"""Server messages that are looked at are seen whole up to this length; all that matter are short."""
_WHOLE_PARAMETER_BYTES = 1024 * 1024
"""The exception: search_path is reported since PostgreSQL 18, and it has no limit."""

_OWED_ALONE = 0  # Query or FunctionCall
_OWED_SYNC = 1  # a Sync that ends extended-query messages
_OWED_BARE_SYNC = 2  # a Sync with nothing before it since the last one

# CommandComplete tags that leave session state as it was, by their first three bytes (PostgreSQL:
# src/include/tcop/cmdtaglist.h). "SELECT" may still call a function that sets something; footprint.py looks
# at the statement text for that.
_HARMLESS_TAGS = frozenset(
    (b"SEL", b"INS", b"UPD", b"DEL", b"MER", b"BEG", b"STA", b"COM", b"ROL", b"SAV", b"REL", b"FET", b"MOV", b"COP")
    + (b"EXP", b"SHO", b"ANA", b"VAC", b"TRU", b"NOT", b"LOC", b"CHE", b"REF", b"CLO", b"EXE")
)


class Exchange:
    """The state of one session's exchange. Feed it every byte that is forwarded, in order.

    `on_statement` is called with the body of each Query and Parse that is seen whole, and with None for one
    that is split over chunks; `on_tag` with the tag of a command that may have changed session state;
    `on_parameter` with the body of each ParameterStatus.
    """

    __slots__ = (
        "_client_head",
        "_client_skip",
        "_owed",
        "_server_head",
        "_server_skip",
        "broken",
        "copy_both",
        "copy_in",
        "errors",
        "on_bind",
        "on_parameter",
        "on_statement",
        "on_tag",
        "queries",
        "status",
        "transactions",
        "unsynced",
    )

    def __init__(
        self,
        on_statement: Callable[[int, bytes | None], None],
        on_tag: Callable[[bytes], None],
        on_parameter: Callable[[bytes], None],
    ) -> None:
        self.on_statement = on_statement
        self.on_tag = on_tag
        self.on_parameter = on_parameter
        self.on_bind: Callable[[bytes | None], None] | None = None
        self.queries = 0
        self.transactions = 0
        self.errors = 0
        self._owed: deque[int] = deque()
        self.reset()

    def reset(self) -> None:
        """Begin anew on a fresh link."""
        self.status = IDLE
        self.unsynced = False
        self.copy_in = False
        self.copy_both = False
        self.broken = False
        self._owed.clear()
        self._client_skip = 0
        self._client_head = b""
        self._server_skip = 0
        self._server_head = b""

    # -- questions ---------------------------------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """No answer owed, no transaction, no COPY, no message half way in either direction."""
        return not (
            self._owed
            or self.unsynced
            or self.status != IDLE
            or self.copy_in
            or self.copy_both
            or self._client_skip
            or self._client_head
            or self._server_skip
            or self._server_head
            or self.broken
        )

    @property
    def at_boundary(self) -> bool:
        """The client has sent whole requests only; the next byte would begin a new one."""
        return not (
            self.unsynced
            or self.copy_in
            or self.copy_both
            or self._client_skip
            or self._client_head
            or self.broken
        )

    @property
    def between_messages(self) -> bool:
        """The server's last message has been passed on whole; one of ours may follow it."""
        return not (self._server_skip or self._server_head)

    @property
    def working(self) -> bool:
        """The server may be running something for a client that has not said goodbye."""
        return bool(self._owed or self.unsynced) and not self.broken

    @property
    def owed(self) -> int:
        return len(self._owed)

    @property
    def in_transaction(self) -> bool:
        return self.status != IDLE

    # -- from the client ---------------------------------------------------------------------------------

    def client(self, data: bytes) -> None:
        """Bytes that are being forwarded to the server."""
        position = 0
        size = len(data)
        if self._client_skip:
            if self._client_skip >= size:
                self._client_skip -= size
                return
            position = self._client_skip
            self._client_skip = 0
        elif self._client_head:
            data = self._client_head + data
            self._client_head = b""
            size = len(data)
        while size - position >= 5:
            kind = data[position]
            length = (
                data[position + 1] << 24 | data[position + 2] << 16 | data[position + 3] << 8 | data[position + 4]
            )
            if length < 4:
                self.broken = True  # the server will say so and close
                return
            end = position + 1 + length
            if kind == _QUERY:
                self._owed.append(_OWED_ALONE)
                self.queries += 1
                self.on_statement(kind, data[position + 5 : end - 1] if end <= size else None)
            elif kind == _SYNC:
                if not self.copy_in:
                    self._owed.append(_OWED_SYNC if self.unsynced else _OWED_BARE_SYNC)
                    self.unsynced = False
            elif kind in _EXTENDED:
                self.unsynced = True
                if kind == _PARSE:
                    self.on_statement(kind, data[position + 5 : end] if end <= size else None)
                elif kind == _EXECUTE:
                    self.queries += 1
                elif kind == _BIND and self.on_bind is not None:
                    self.on_bind(data[position + 5 : end] if end <= size else None)
            elif kind == _COPY_DONE or kind == _COPY_FAIL:
                self.copy_in = False
            elif kind == _FUNCTION_CALL:
                self._owed.append(_OWED_ALONE)
                self.queries += 1
            elif kind == _TERMINATE:
                self.broken = True
            position = end
        if position > size:
            self._client_skip = position - size
        elif position < size:
            self._client_head = data[position:]

    def unit_length(self, data: bytes | bytearray) -> int:
        """How many of these waiting bytes belong to the request that is under way or about to begin.

        Ends behind the first Query, FunctionCall or Sync; during COPY FROM STDIN, behind its end. All of
        `data` where no such end is in it.
        """
        size = len(data)
        position = 0
        copying = self.copy_in
        if self._client_skip:
            if not (self.unsynced or copying):
                return min(self._client_skip, size)  # the rest of a Query or FunctionCall
            position = self._client_skip
        elif self._client_head:
            missing = 5 - len(self._client_head)
            if size < missing:
                return size
            head = self._client_head + bytes(data[:missing])
            position = 1 + int.from_bytes(head[1:5], "big") - len(self._client_head)
            if not copying and head[0] in (_QUERY, _SYNC, _FUNCTION_CALL):
                return min(position, size)
            if head[0] in (_COPY_DONE, _COPY_FAIL):
                copying = False
        while size - position >= 5:
            kind = data[position]
            length = int.from_bytes(data[position + 1 : position + 5], "big")
            if length < 4:
                return size
            position += 1 + length
            if copying:
                if kind in (_COPY_DONE, _COPY_FAIL):
                    copying = False
                    if not self.unsynced:
                        return min(position, size)
            elif kind in (_QUERY, _SYNC, _FUNCTION_CALL):
                return min(position, size)
        return size

    # -- from the server ---------------------------------------------------------------------------------

    def server(self, data: bytes) -> None:
        """Bytes that came from the server."""
        position = 0
        size = len(data)
        if self._server_skip:
            if self._server_skip >= size:
                self._server_skip -= size
                return
            position = self._server_skip
            self._server_skip = 0
        elif self._server_head:
            data = self._server_head + data
            self._server_head = b""
            size = len(data)
        while size - position >= 5:
            kind = data[position]
            length = (
                data[position + 1] << 24 | data[position + 2] << 16 | data[position + 3] << 8 | data[position + 4]
            )
            end = position + 1 + length
            if kind in _SEEN_FROM_SERVER:
                limit = _WHOLE_PARAMETER_BYTES if kind == _PARAMETER_STATUS else _WHOLE_BYTES
                if end > size and kind != _COPY_IN and length <= limit:
                    break  # these are short; wait for the rest, so that their content is seen whole
                if kind == _READY:
                    self._ready(data[position + 5])
                elif kind == _COMMAND_COMPLETE:
                    if data[position + 5 : position + 8] not in _HARMLESS_TAGS:
                        self.on_tag(data[position + 5 : end - 1])
                elif kind == _ERROR:
                    self.errors += 1
                    self.copy_in = False
                elif kind == _PARAMETER_STATUS and end <= size:
                    self.on_parameter(data[position + 5 : end])
                elif kind == _COPY_IN:
                    self._copy_in_begins()
                elif kind == _COPY_BOTH:
                    self.copy_both = True
            position = end
        if position > size:
            self._server_skip = position - size
        elif position < size:
            self._server_head = data[position:]

    def _ready(self, status: int) -> None:
        if self._owed:
            self._owed.popleft()
        if status == IDLE:
            self.transactions += 1
        self.status = status
        if not self._owed:
            self.copy_in = False

    def _copy_in_begins(self) -> None:
        self.copy_in = True
        owed = self._owed
        if owed and owed[0] == _OWED_SYNC:
            owed.popleft()
            self.unsynced = True
            while owed and owed[0] == _OWED_BARE_SYNC:
                owed.popleft()
