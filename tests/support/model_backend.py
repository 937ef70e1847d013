"""A model of how a PostgreSQL backend answers: which messages are answered, which are skipped or swallowed.

Follows PostgresMain and exec_* (src/backend/tcop/postgres.c) and CopyGetData (commands/copyfromparse.c). SQL is
replaced by words that say what happens:

    ok          one row
    set         a changed setting, reported
    notice      a notice, then one row
    begin commit rollback
    error       fails when it runs (in the extended protocol: at Execute)
    parse_error fails when it is parsed
    copyin      COPY FROM STDIN; copyin_bad fails at its first data, copyin_early before it reads anything
    copyout     COPY TO STDOUT with three rows
    (nothing)   an empty query

A Query may hold several, separated by semicolons.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.wire import messages
from proxy.wire.messages import message

Q, P, B, D, E, C, S, H, F, X = (ord(letter) for letter in "QPBDECSHFX")
COPY_DATA, COPY_DONE, COPY_FAIL = ord("d"), ord("c"), ord("f")

COPY_IN_RESPONSE = message(ord("G"), b"\0\0\0")
COPY_OUT_RESPONSE = message(ord("H"), b"\0\0\0")
FUNCTION_RESPONSE = message(ord("V"), b"\xff\xff\xff\xff")
NOTIFICATION = message(ord("A"), b"\0\0\0\1channel\0payload\0")
ERROR = messages.error_response("ERROR", "XX000", "no")


class _Failed(Exception):
    """The statement raised an error."""


@dataclass
class ModelBackend:
    """`feed` takes input, `step` handles one message, `sent` is what has gone out, `kept` what waits for a flush."""

    inbox: bytearray = field(default_factory=bytearray)
    sent: bytearray = field(default_factory=bytearray)
    kept: bytearray = field(default_factory=bytearray)
    status: int = ord("I")
    skipping: bool = False
    implicit: bool = False  # extended messages were handled since the last Sync
    copying: str = ""  # "simple" or "extended"
    copy_word: str = ""
    rest: list[str] = field(default_factory=list)  # of a Query that waits for its COPY
    statements: dict[bytes, str] = field(default_factory=dict)
    portals: dict[bytes, str] = field(default_factory=dict)
    dead: bool = False
    ran: list[str] = field(default_factory=list)
    syncs: int = 0

    # -- what a test looks at ------------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """It waits for a new request, outside a transaction."""
        return not (self.skipping or self.implicit or self.copying) and self.status == ord("I")

    # -- input ---------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        self.inbox += data

    def step(self) -> bool:
        """Handle one message; False where none is complete."""
        if self.dead or len(self.inbox) < 5:
            return False
        end = 1 + int.from_bytes(self.inbox[1:5], "big")
        if len(self.inbox) < end:
            return False
        kind, body = self.inbox[0], bytes(self.inbox[5:end])
        del self.inbox[:end]
        if self.copying:
            self._in_copy(kind, body)
        elif kind == X:
            self.dead = True
        elif kind == S:
            self.skipping = self.implicit = False
            self.syncs += 1
            self._ready()
        elif not self.skipping:
            self._message(kind, body)
        return True

    def flush(self) -> None:
        self.sent += self.kept
        self.kept.clear()

    # -- messages ------------------------------------------------------------------------------------------

    def _message(self, kind: int, body: bytes) -> None:
        if kind == Q:
            self.implicit = False
            self.statements.pop(b"", None)
            self._query([word.strip() for word in body[:-1].decode().split(";")])
        elif kind == F:
            self.implicit = False
            self.kept += FUNCTION_RESPONSE if body == b"ok" else ERROR
            self._ready()
        elif kind == H:
            self.flush()
        elif kind in (P, B, D, E, C):
            self.implicit = True
            try:
                self._extended(kind, body)
            except _Failed:
                self._fail()
                self.skipping = True
        # CopyData, CopyDone and CopyFail that come after a COPY has failed are thrown away.

    def _query(self, words: list[str]) -> None:
        """A Query without one statement in it is answered by EmptyQueryResponse."""
        try:
            if not any(words):
                self.kept += messages.EMPTY_QUERY_RESPONSE
            while words:
                word = words.pop(0)
                if not word:
                    continue
                if word == "parse_error":
                    raise _Failed
                self._run(word, rows_described=True)
                if word.startswith("copyin"):
                    self._begin_copy("simple", word, words)
                    return
        except _Failed:
            self._fail()
        self._ready()

    def _extended(self, kind: int, body: bytes) -> None:
        if kind == P:
            name, text, _ = body.split(b"\0", 2)
            if text == b"parse_error" or (self.status == ord("E") and text not in (b"commit", b"rollback")):
                raise _Failed
            if name and name in self.statements:
                raise _Failed
            self.statements[name] = text.decode()
            self.kept += messages.PARSE_COMPLETE
        elif kind == B:
            portal, statement, _ = body.split(b"\0", 2)
            if statement not in self.statements:
                raise _Failed
            self.portals[portal] = self.statements[statement]
            self.kept += messages.BIND_COMPLETE
        elif kind == D:
            known = self.statements if body[:1] == b"S" else self.portals
            if body[1:-1] not in known:
                raise _Failed
            word = known[body[1:-1]]
            if body[:1] == b"S":
                self.kept += messages.parameter_description([])
            self.kept += messages.row_description(["a"]) if word in ("ok", "notice") else messages.NO_DATA
        elif kind == C:
            (self.statements if body[:1] == b"S" else self.portals).pop(body[1:-1], None)
            self.kept += messages.CLOSE_COMPLETE
        else:
            portal = body.split(b"\0", 1)[0]
            if portal not in self.portals:
                raise _Failed
            word = self.portals[portal]
            if not word:
                self.kept += messages.EMPTY_QUERY_RESPONSE
                return
            self._run(word, rows_described=False)
            if word.startswith("copyin"):
                self._begin_copy("extended", word, [])

    # -- statements ----------------------------------------------------------------------------------------

    def _run(self, word: str, *, rows_described: bool) -> None:
        self.ran.append(word)
        if self.status == ord("E") and word not in ("commit", "rollback"):
            raise _Failed
        if word == "error":
            raise _Failed
        if word.startswith("copyin"):
            return
        if word in ("begin", "commit", "rollback"):
            self.status = ord("T") if word == "begin" else ord("I")
            self.kept += messages.command_complete(word.upper())
        elif word == "set":
            self.kept += messages.parameter_status("TimeZone", "UTC") + messages.command_complete("SET")
        elif word == "copyout":
            self.kept += COPY_OUT_RESPONSE + message(COPY_DATA, b"row\n") * 3 + message(COPY_DONE)
            self.kept += messages.command_complete("COPY 3")
        else:
            if word == "notice":
                self.kept += messages.notice_response("look")
            if rows_described:
                self.kept += messages.row_description(["a"])
            self.kept += messages.data_row(["1"]) + messages.command_complete("SELECT 1")

    # -- COPY FROM STDIN -----------------------------------------------------------------------------------

    def _begin_copy(self, how: str, word: str, rest: list[str]) -> None:
        self.kept += COPY_IN_RESPONSE
        self.flush()
        self.copying, self.copy_word, self.rest = how, word, rest
        if word == "copyin_early":
            self._copy_failed()

    def _in_copy(self, kind: int, body: bytes) -> None:
        if kind in (S, H):
            return
        if kind == COPY_DATA and self.copy_word != "copyin_bad":
            return
        if kind == COPY_DONE:
            how, rest, self.copying, self.rest = self.copying, self.rest, "", []
            self.kept += messages.command_complete("COPY 1")
            if how == "simple":
                self._query(rest) if any(rest) else self._ready()
            return
        if kind not in (COPY_DATA, COPY_FAIL):
            self.dead = True  # "unexpected message type": protocol synchronization was lost
        self._copy_failed()

    def _copy_failed(self) -> None:
        how, self.copying, self.rest = self.copying, "", []
        self._fail()
        if how == "simple":
            self._ready()
        else:
            self.skipping = True

    # -- answers -------------------------------------------------------------------------------------------

    def _fail(self) -> None:
        self.kept += ERROR
        if self.status == ord("T"):
            self.status = ord("E")

    def _ready(self) -> None:
        self.portals.clear()
        self.kept += messages.ready_for_query(self.status)
        self.flush()
