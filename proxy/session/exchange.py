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
CopyInResponse arrives, the Syncs that follow the Execute without any other message between are therefore
taken off the queue, and Syncs sent before CopyDone or CopyFail are not put on it. A COPY that fails before it
has read anything (a statement trigger, a view as the target) leaves such a Sync to be answered after all: a
stray ReadyForQuery. Nothing announces it. But a request is always answered with something before its own
ReadyForQuery, so while a stray one can still come, one with nothing before it is taken for that.

Parse without Sync. Drivers (asyncpg among them) prepare with Parse, Describe, Flush and stop there, possibly
for hours. Once such a batch is answered, a Sync of the proxy's own ends it and changes nothing for the
client: no portal exists, nothing has run. `prepared_only` says when that is so. After an error it is not,
because the server then skips what the client sends until the client's own Sync.

Errors of judgement are allowed in one direction only: a session may be thought busy while it is quiet (the
run then waits and names it), never the reverse. Known ones: a Query that the server skips after an error in
extended-query messages without a Sync; a COPY whose data are sent without waiting for CopyInResponse, in a
pipeline. The exception: between the ReadyForQuery of a failed COPY and the stray one behind it a session is
taken for quiet; whoever asks the backend just then has to recognise the stray one (net/link.py).

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
_RUN, _ABOUT = frozenset((_BIND, _EXECUTE)), frozenset((_DESCRIBE, _CLOSE))
_STATEMENT = 0x53  # S, the kind of thing that a Describe or Close names
_COPY_DONE, _COPY_FAIL = 0x63, 0x66  # c f
_COPY_ENDS = frozenset((_COPY_DONE, _COPY_FAIL))
_TERMINATE = 0x58  # X

_READY, _COPY_IN, _COPY_BOTH, _ERROR = 0x5A, 0x47, 0x57, 0x45  # Z G W E
_COMMAND_COMPLETE, _PARAMETER_STATUS = 0x43, 0x53  # C S
_SEEN_FROM_SERVER = frozenset((_READY, _COPY_IN, _COPY_BOTH, _ERROR, _COMMAND_COMPLETE, _PARAMETER_STATUS))
# 1 3 T n: what ends the answer to a Parse, a Close, a Describe.
_ENDS_PREPARING = frozenset((0x31, 0x33, 0x54, 0x6E))
# At least one of these precedes the ReadyForQuery of every request: 1 2 3 C E G H I T V n s t.
_ANSWERS = _ENDS_PREPARING | {0x32, _COMMAND_COMPLETE, _ERROR, _COPY_IN, 0x48, 0x49, 0x56, 0x73, 0x74}
_WATCHED_FROM_SERVER = _SEEN_FROM_SERVER | _ANSWERS

_TEXT_LIMIT_BYTES = 256 * 1024
"""A statement that is split over chunks is put together for the observers up to here."""

_WHOLE_BYTES = 8192
"""Server messages that are looked at are seen whole up to this length; all that matter are short."""
_WHOLE_PARAMETER_BYTES = 1024 * 1024
"""The exception: search_path is reported since PostgreSQL 18, and it has no limit."""

# Values of `unsynced`.
_SYNCED = 0
_UNSYNCED = 1  # extended-query messages have been sent and no Sync after them
_UNSYNCED_BY_COPY = 2  # the Sync was sent, and COPY FROM STDIN has swallowed it

_OWED_ALONE = 0  # Query or FunctionCall
_OWED_SYNC = 1  # a Sync that ends extended-query messages
_OWED_BARE_SYNC = 2  # a Sync with nothing before it since the last one
# Not owed: CopyDone or CopyFail was sent before CopyInResponse was seen, for a Query, for an Execute.
_COPY_ENDED_ALONE = 3
_COPY_ENDED = 4

# CommandComplete tags that leave session state as it was, by their first three bytes (PostgreSQL:
# src/include/tcop/cmdtaglist.h). "SELECT" may still call a function that sets something; footprint.py looks
# at the statement text for that.
_HARMLESS_TAGS = frozenset(
    b"SEL INS UPD DEL MER BEG STA COM ROL SAV REL FET MOV COP EXP SHO ANA VAC TRU NOT LOC CHE REF EXE".split()
)


class Exchange:
    """The state of one session's exchange. Feed it every byte that is forwarded, in order.

    `on_statement` is called with the body of each Query and Parse once it has been forwarded whole, and with
    None for one that is too long to keep; `on_bind`, where set, likewise; `on_tag` with the tag of a command
    that may have changed session state; `on_parameter` with the body of each ParameterStatus.
    """

    __slots__ = (
        "_client_head",
        "_client_skip",
        "_copy_syncs",
        "_due",
        "_owed",
        "_preparing",
        "_seen",
        "_server_head",
        "_server_skip",
        "_stray",
        "_stray_answered",
        "_stray_first",
        "_text",
        "_text_kind",
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
        self.unsynced = _SYNCED
        self.copy_in = False
        self.copy_both = False
        self.broken = False
        self._owed.clear()
        self._client_skip = 0
        self._client_head = b""
        self._server_skip = 0
        self._server_head = b""
        self._seen = _SEEN_FROM_SERVER
        self._preparing = False  # nothing but Parse, Describe and Close of statements since the last Sync
        self._due = 0  # how many of those are not answered yet
        self._copy_syncs = 0  # Syncs not in the queue because of the COPY that is under way
        self._stray = 0  # of those, how many may be answered after all because the COPY failed
        self._stray_answered = False  # meanwhile: something came since the last ReadyForQuery
        self._stray_first = False  # the ReadyForQuery that ends the failed COPY has not come yet
        self._text: bytearray | None = None  # the part seen so far of a statement that is split over chunks
        self._text_kind = 0

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
            self.unsynced or self.copy_in or self.copy_both or self._client_skip or self._client_head or self.broken
        )

    @property
    def between_messages(self) -> bool:
        """The server's last message has been passed on whole; one of ours may follow it."""
        return not (self._server_skip or self._server_head)

    @property
    def sent_whole(self) -> bool:
        """The client's last message has been passed on whole."""
        return not (self._client_skip or self._client_head)

    @property
    def working(self) -> bool:
        """The server may be running something for a client that has not said goodbye."""
        return bool(self._owed or self.unsynced) and not self.broken

    @property
    def prepared_only(self) -> bool:
        """Busy only because of answered Parse, Describe and Close messages that no Sync has followed."""
        return (
            self._preparing
            and self._due == 0
            and self.status == IDLE
            and not (
                self._owed
                or self._stray
                or self._client_skip
                or self._client_head
                or self._server_skip
                or self._server_head
                or self.broken
            )
        )

    @property
    def owed(self) -> int:
        return len(self._owed)

    @property
    def in_transaction(self) -> bool:
        return self.status != IDLE

    # -- from the client ---------------------------------------------------------------------------------

    def synced_for_client(self) -> None:
        """A Sync of our own is being sent (`prepared_only`); its ReadyForQuery is to be fed to `server`."""
        self._end_preparing()
        self.unsynced = _SYNCED
        self._owed.append(_OWED_BARE_SYNC)

    def client(self, data: bytes) -> None:
        """Bytes that are being forwarded to the server."""
        if self.broken:
            return
        position = 0
        size = len(data)
        if self._client_skip:
            if self._text is not None:
                self._text += data[: self._client_skip]
            if self._client_skip > size:
                self._client_skip -= size
                return
            position = self._client_skip
            self._client_skip = 0
            if self._text is not None:
                self._text_complete()
        elif self._client_head:
            data = self._client_head + data
            self._client_head = b""
            size = len(data)
        while size - position >= 5:
            kind = data[position]
            length = data[position + 1] << 24 | data[position + 2] << 16 | data[position + 3] << 8 | data[position + 4]
            if length < 4:
                self.broken = True  # the server will say so and close
                return
            end = position + 1 + length
            if kind == _QUERY:
                self._owed.append(_OWED_ALONE)
                self.queries += 1
                if self.unsynced:
                    self._request_ends_batch()
                if end <= size:
                    self.on_statement(kind, data[position + 5 : end - 1])
                else:
                    self._text_begins(kind, length, data[position + 5 :])
            elif kind == _SYNC:
                if self.copy_in:
                    self._copy_syncs += 1
                    if self.unsynced:
                        self.unsynced = _UNSYNCED_BY_COPY
                else:
                    self._owed.append(_OWED_SYNC if self.unsynced else _OWED_BARE_SYNC)
                    self.unsynced = _SYNCED
                    if self._preparing:
                        self._end_preparing()
            elif kind in _RUN:
                self.unsynced = _UNSYNCED
                if self._preparing:
                    self._end_preparing()
                if kind == _EXECUTE:
                    self.queries += 1
                elif self.on_bind is not None:
                    if end <= size:
                        self.on_bind(data[position + 5 : end])
                    else:
                        self._text_begins(kind, length, data[position + 5 :])
            elif kind == _PARSE:
                self._prepare()
                if end <= size:
                    self.on_statement(kind, data[position + 5 : end])
                else:
                    self._text_begins(kind, length, data[position + 5 :])
            elif kind in _ABOUT:
                if length == 4 or (position + 5 < size and data[position + 5] != _STATEMENT):
                    self.unsynced = _UNSYNCED  # of a portal
                    if self._preparing:
                        self._end_preparing()
                elif position + 5 < size:
                    self._prepare()
                else:
                    break  # the byte that tells is not here yet
            elif kind in _COPY_ENDS:
                if self.copy_in:
                    self.copy_in = False
                elif self.unsynced == _UNSYNCED:
                    if not self._owed or self._owed[-1] != _COPY_ENDED:
                        self._owed.append(_COPY_ENDED)
                elif self._owed and self._owed[-1] == _OWED_ALONE:
                    self._owed.append(_COPY_ENDED_ALONE)
            elif kind == _FUNCTION_CALL:
                self._owed.append(_OWED_ALONE)
                self.queries += 1
                if self.unsynced:
                    self._request_ends_batch()
            elif kind == _TERMINATE:
                self.broken = True
            position = end
        if position > size:
            self._client_skip = position - size
        elif position < size:
            self._client_head = data[position:]

    def _request_ends_batch(self) -> None:
        """A Query or FunctionCall also ends what extended-query messages before it have begun."""
        self.unsynced = _SYNCED
        if self._preparing:
            self._end_preparing()

    def _prepare(self) -> None:
        """A Parse, or a Describe or Close of a statement."""
        if not self.unsynced:
            self.unsynced = _UNSYNCED
            self._preparing = True
            self._due = 1
            self._seen = _WATCHED_FROM_SERVER
        else:
            self.unsynced = _UNSYNCED
            self._due += 1

    def _end_preparing(self) -> None:
        self._preparing = False
        if not self._stray:
            self._seen = _SEEN_FROM_SERVER

    def _text_begins(self, kind: int, length: int, part: bytes) -> None:
        if length > _TEXT_LIMIT_BYTES:
            self._report_text(kind, None)
            return
        self._text_kind = kind
        self._text = bytearray(part)

    def _text_complete(self) -> None:
        text, self._text = self._text, None
        if text is not None:
            self._report_text(self._text_kind, bytes(text[:-1] if self._text_kind == _QUERY else text))

    def _report_text(self, kind: int, text: bytes | None) -> None:
        if kind != _BIND:
            self.on_statement(kind, text)
        elif self.on_bind is not None:
            self.on_bind(text)

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
            if head[0] in _COPY_ENDS and copying:
                if not self.unsynced:
                    return min(position, size)
                copying = False
        while size - position >= 5:
            kind = data[position]
            length = int.from_bytes(data[position + 1 : position + 5], "big")
            if length < 4:
                return size
            position += 1 + length
            if copying:
                if kind in _COPY_ENDS:
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
        seen = self._seen
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
            length = data[position + 1] << 24 | data[position + 2] << 16 | data[position + 3] << 8 | data[position + 4]
            end = position + 1 + length
            if kind in seen:
                limit = _WHOLE_PARAMETER_BYTES if kind == _PARAMETER_STATUS else _WHOLE_BYTES
                if end > size and kind != _COPY_IN and length <= limit:
                    break  # these are short; wait for the rest, so that their content is seen whole
                if seen is _WATCHED_FROM_SERVER:
                    self._watch(kind)
                if kind == _READY:
                    if length != 5:
                        self.broken = True  # not the protocol: nothing can be said of whatever follows
                        self._server_skip = 1 << 62
                        return
                    self._ready(data[position + 5])
                    seen = self._seen
                elif kind == _COMMAND_COMPLETE:
                    if data[position + 5 : position + 8] not in _HARMLESS_TAGS:
                        self.on_tag(data[position + 5 : end - 1])
                elif kind == _ERROR:
                    self._error()
                    seen = self._seen
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
        self.status = status
        self._copy_syncs = 0
        if self._stray and self._is_stray():
            return
        if status == IDLE:
            self.transactions += 1
        owed = self._owed
        if owed:
            first = owed.popleft()
            while first == _COPY_ENDED and owed:
                first = owed.popleft()
            if first == _OWED_ALONE:
                while owed and owed[0] == _COPY_ENDED_ALONE:
                    owed.popleft()
        if not owed:
            self.copy_in = self.copy_both = False

    def _copy_in_begins(self) -> None:
        owed = self._owed
        if owed and owed[0] == _OWED_ALONE:
            if len(owed) > 1 and owed[1] == _COPY_ENDED_ALONE:
                del owed[1]
                return
            while len(owed) > 1 and owed[1] == _OWED_BARE_SYNC:
                del owed[1]
                self._copy_syncs += 1
        elif owed and owed[0] == _COPY_ENDED:
            owed.popleft()
            return
        elif owed and owed[0] == _OWED_SYNC:
            owed.popleft()
            self._copy_syncs += 1
            while owed and owed[0] == _OWED_BARE_SYNC:
                owed.popleft()
                self._copy_syncs += 1
            if not self.unsynced:
                self.unsynced = _UNSYNCED_BY_COPY
        self.copy_in = True

    def _error(self) -> None:
        self.errors += 1
        self.copy_in = False
        if self._preparing and not self._owed:
            self._end_preparing()  # the server skips everything up to the client's own Sync
        if self._copy_syncs:
            self._stray, self._copy_syncs = self._copy_syncs, 0
            self._stray_first = self._stray_answered = True
            self._seen = _WATCHED_FROM_SERVER

    def _watch(self, kind: int) -> None:
        if kind in _ANSWERS:
            self._stray_answered = True
            if kind in _ENDS_PREPARING and self._preparing and not self._owed and self._due:
                self._due -= 1

    def _is_stray(self) -> bool:
        """Whether a ReadyForQuery that arrives while a stray one is possible is that one."""
        answered, self._stray_answered = self._stray_answered, False
        if not answered:
            if self._owed and self._owed[0] == _OWED_BARE_SYNC:
                return False  # it may be; then the one for the Sync changes nothing when it comes
            self._no_stray(self._stray - 1)
            return True
        if self._stray_first:  # ends the COPY
            self._stray_first = False
            if self._owed:
                return False
            if self.unsynced == _UNSYNCED_BY_COPY:
                self.unsynced = _SYNCED
            self._no_stray(self._stray - 1)
            return True
        self._no_stray(0)  # a later request has been answered, and a stray one would have come before
        return False

    def _no_stray(self, left: int) -> None:
        self._stray = left
        if not left and not self._preparing:
            self._seen = _SEEN_FROM_SERVER
