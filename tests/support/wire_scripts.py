"""What a client may send, step by step, to compare a server's answers with and without the proxy."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from proxy.wire import messages
from proxy.wire.messages import FLUSH, SYNC, TERMINATE, bind, close, describe, execute, parse, query
from tests.support.wire import PROTOCOL, startup_packet

_COPY_DONE = b"c\0\0\0\4"


@dataclass(frozen=True)
class Step:
    """Bytes to send, then messages to wait for: `count` of type `kind`. An empty kind: until the hang-up."""

    send: bytes
    kind: str = "Z"
    count: int = 1


@dataclass(frozen=True)
class Script:
    """`least_major`: servers from that version on. `startup` replaces the usual log-in. `loses_count`: the proxy
    cannot know how many answers are owed after it. `cut_off`: the server hangs up before it has read everything,
    and TCP may then drop its last words.
    """

    name: str
    steps: list[Step]
    least_major: int = 0
    startup: bytes | None = None
    loses_count: bool = False
    cut_off: bool = False
    parameters: dict[str, str] = field(default_factory=dict)
    protocol: int = PROTOCOL

    def log_in(self, database: str) -> bytes:
        return self.startup or startup_packet("postgres", database, self.parameters, self.protocol)


def raw_message(kind: str, body: bytes) -> bytes:
    return messages.message(ord(kind), body)


def copy_data(data: bytes) -> bytes:
    return raw_message("d", data)


def copy_fail(reason: bytes) -> bytes:
    return raw_message("f", reason + b"\0")


def binary_bind(
    portal: bytes, statement: bytes, parameters: list[bytes | None], formats: list[int], results: list[int]
) -> bytes:
    """Bind with formats of its own for parameters and results."""
    body = portal + b"\0" + statement + b"\0" + struct.pack(f"!H{len(formats)}H", len(formats), *formats)
    body += struct.pack("!H", len(parameters))
    for value in parameters:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return raw_message("B", body + struct.pack(f"!H{len(results)}H", len(results), *results))


def function_call(oid: int, arguments: list[bytes | None], *, binary: bool = True) -> bytes:
    body = struct.pack("!IHHH", oid, 1, int(binary), len(arguments))
    for value in arguments:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return raw_message("F", body + struct.pack("!H", int(binary)))


def run(sql: str, *parameters: str | None) -> bytes:
    """The usual extended query, without Sync."""
    return parse("", sql) + bind("", "", parameters) + describe("P", "") + execute("")


_SERIES = "SELECT g, 'row ' || g FROM generate_series(1, 10) g"
_TABLE = "CREATE TEMP TABLE t (i int, s text)"

SCRIPTS = [
    Script(
        "simple queries",
        [
            Step(query("SELECT 1")),
            Step(query("")),
            Step(query(";")),
            Step(query("SELECT 1; SELECT 'two'; SELECT 1/0; SELECT 4")),
            Step(
                query("BEGIN") + query("SELECT 1") + query("SELECT nope") + query("SELECT 2") + query("COMMIT"),
                count=5,
            ),
            Step(query("SELECT repeat('x', 20000), generate_series(1, 20)")),
            Step(TERMINATE, kind=""),
        ],
    ),
    Script(
        "one extended query at a time",
        [
            Step(
                parse("", "SELECT $1::int + 1")
                + describe("S", "")
                + bind("", "", ["41"])
                + describe("P", "")
                + execute("")
                + SYNC
            ),
            Step(parse("named", _SERIES) + describe("S", "named") + SYNC),
            Step(bind("", "named") + execute("") + SYNC),
            Step(parse("named", "SELECT 1") + SYNC),
            Step(close("S", "named") + close("S", "never there") + SYNC),
            Step(bind("", "named") + SYNC),
            Step(parse("", "") + bind("", "") + execute("") + SYNC),
            Step(parse("", "INSERT INTO nothing VALUES (1)") + SYNC),
            Step(SYNC + SYNC + SYNC, count=3),
        ],
    ),
    Script(
        "row limits and suspended portals",
        [
            Step(query("BEGIN")),
            Step(
                parse("s", _SERIES)
                + bind("a", "s")
                + bind("b", "s")
                + execute("a", 3)
                + execute("b", 4)
                + execute("a", 3)
                + execute("a", 0)
                + execute("a", 1)
                + execute("b", 6)
                + execute("b", 1)
                + close("P", "a")
                + SYNC
            ),
            Step(execute("b", 1) + SYNC),
            Step(execute("a", 1) + SYNC),
            Step(query("ROLLBACK")),
            Step(parse("", _SERIES) + bind("", "") + execute("", 3) + FLUSH, kind="s"),
            Step(execute("", 3) + FLUSH, kind="s"),
            Step(execute("", 3) + SYNC),
            Step(execute("", 3) + SYNC),
            Step(query("BEGIN; DECLARE c CURSOR FOR " + _SERIES)),
            Step(describe("P", "c") + execute("c", 2) + SYNC),
            Step(query("COMMIT")),
            Step(parse("", "UPDATE pg_class SET relname = relname WHERE false") + bind("", "") + execute("", 1) + SYNC),
        ],
    ),
    Script(
        "flush instead of sync",
        [
            Step(parse("", "SELECT $1::text") + describe("S", "") + FLUSH, kind="T"),
            Step(bind("", "", ["x"]) + FLUSH, kind="2"),
            Step(describe("P", "") + FLUSH, kind="T"),
            Step(execute("") + FLUSH, kind="C"),
            Step(SYNC),
            Step(parse("", "SELECT nope") + FLUSH, kind="E"),
            Step(parse("", "SELECT 'skipped'") + bind("", "") + execute("") + FLUSH + SYNC),
            Step(FLUSH + FLUSH + query("SELECT 1")),
        ],
    ),
    Script(
        "pipelines with errors",
        [
            Step(run("SELECT 1") + run("SELECT 1/0") + run("SELECT 3") + SYNC + run("SELECT 4") + SYNC, count=2),
            Step(
                run("SELECT 1") + SYNC + run("SELECT nope") + SYNC + run("SELECT 3") + SYNC + query("SELECT 4"),
                count=4,
            ),
            Step(
                run("BEGIN") + run("SELECT 1/0") + SYNC + run("SELECT 2") + SYNC + run("ROLLBACK") + SYNC,
                count=3,
            ),
            Step(run(_TABLE) + run("INSERT INTO t VALUES (1, 'a')") + run("SELECT i + 0, s || '' FROM t") + SYNC),
            Step(
                run("INSERT INTO t VALUES (2, 'b')")
                + run("SELECT 1/0")
                + SYNC
                + run("SELECT i + 0, s || '' FROM t")
                + SYNC,
                count=2,
            ),
            Step(run("SAVEPOINT s") + SYNC),
            Step(run("VACUUM") + run("SELECT 1") + SYNC),
            Step(b"".join(run(f"SELECT {n}") + (SYNC if n % 7 == 0 else b"") for n in range(1, 71)), count=10),
            # A simple query in the middle of an extended one ends the implicit transaction as a Sync would.
            Step(run("SELECT 1") + query("SELECT 2") + SYNC, count=2),
        ],
    ),
    Script(
        "mistakes in the extended protocol",
        [
            Step(describe("S", "nothing") + SYNC),
            Step(describe("P", "nothing") + SYNC),
            Step(describe("x", "nothing") + SYNC),
            Step(close("x", "nothing") + SYNC),
            Step(execute("nothing") + SYNC),
            Step(bind("", "nothing") + SYNC),
            Step(parse("s", "SELECT $1::int, $2::int") + bind("", "s", ["1"]) + SYNC),
            Step(bind("", "s", ["1", "x"]) + SYNC),
            Step(binary_bind(b"", b"s", [b"\0\0\1", b"\0\0\0\1"], [1], []) + SYNC),
            Step(binary_bind(b"", b"s", [b"1", b"2"], [7], []) + SYNC),
            Step(binary_bind(b"", b"s", [b"1", b"2"], [0, 0, 0], []) + SYNC),
            Step(binary_bind(b"", b"s", [b"1", b"2"], [], [0, 1, 0]) + execute("") + SYNC),
            Step(binary_bind(b"", b"s", [b"1", b"2"], [], [9]) + execute("") + SYNC),
            Step(parse("", "SELECT 1; SELECT 2") + SYNC),
            Step(parse("", "SELECT $1", [999999]) + SYNC),
            Step(parse("", "SELECT $1") + SYNC),
            Step(raw_message("P", b"no end") + SYNC),
            Step(raw_message("B", b"\0\0\0") + SYNC),
            Step(raw_message("E", b"\0\0\0\0\0\0extra") + SYNC),
            Step(raw_message("Q", b"SELECT 1")),
            Step(raw_message("Q", b"SELECT 1\0 and more\0")),
            Step(raw_message("S", b"not empty") + SYNC, count=2),
            Step(raw_message("d", b"copy data out of place") + raw_message("c", b"") + query("SELECT 1")),
        ],
    ),
    Script(
        "binary formats",
        [
            Step(
                parse(
                    "s",
                    "SELECT $1::int4, $2::int8, $3::float8, $4::bytea, $5::text, $6::bool, $7::timestamptz,"
                    " $8::uuid, $9::numeric",
                )
                + describe("S", "s")
                + SYNC
            ),
            Step(
                binary_bind(
                    b"",
                    b"s",
                    [
                        struct.pack("!i", 42),
                        struct.pack("!q", -1),
                        struct.pack("!d", 2.5),
                        b"\0\xff",
                        "ä".encode(),
                        b"\1",
                        struct.pack("!q", 0),
                        bytes(range(16)),
                        struct.pack("!hhhhhh", 2, 0, 0, 1, 12, 3000),
                    ],
                    [1],
                    [1],
                )
                + describe("P", "")
                + execute("")
                + SYNC
            ),
            Step(binary_bind(b"", b"s", [None] * 9, [0], [0, 1, 0, 1, 0, 1, 0, 1, 0]) + execute("") + SYNC),
            Step(query("BEGIN; DECLARE b BINARY CURSOR FOR SELECT 1, 'x'::text, 2.5::float8; FETCH b; COMMIT")),
            Step(
                parse(
                    "",
                    "SELECT ARRAY[1,2,NULL], ROW(1,'a'), '{\"a\":1}'::jsonb, int4range(1,5), point(1,2), '10.0.0.1'::inet",
                )
                + binary_bind(b"", b"", [], [], [1])
                + describe("P", "")
                + execute("")
                + SYNC
            ),
        ],
    ),
    Script(
        "COPY in the simple protocol",
        [
            Step(query(_TABLE)),
            Step(query("COPY t FROM STDIN"), kind="G"),
            Step(copy_data(b"1\ta\n2\t") + copy_data(b"b\n") + copy_data(b"3\tc") + copy_data(b"\n") + _COPY_DONE),
            Step(query("COPY t FROM STDIN"), kind="G"),
            Step(copy_data(b"4\td\n") + copy_fail(b"changed my mind")),
            Step(query("COPY t FROM STDIN"), kind="G"),
            Step(copy_data(b"x\td\n") + copy_data(b"5\te\n") * 50 + _COPY_DONE),
            Step(query("COPY t FROM STDIN"), kind="G"),
            Step(copy_data(b"6\tf\n") + FLUSH + SYNC + copy_data(b"7\tg\n") + _COPY_DONE),
            Step(query("COPY t FROM STDIN"), kind="G"),
            Step(copy_data(b"8\th\n") + _COPY_DONE),
            Step(query("COPY t FROM STDIN; SELECT count(*) FROM t; COPY t FROM STDIN"), kind="G"),
            Step(copy_data(b"9\ti\n") + _COPY_DONE, kind="G"),
            Step(_COPY_DONE),
            Step(
                query("COPY t FROM STDIN") + copy_data(b"10\tj\n") + _COPY_DONE + query("SELECT count(*) FROM t"),
                count=2,
            ),
            Step(query("COPY t TO STDOUT; COPY (SELECT 1/0) TO STDOUT; SELECT 3")),
            Step(query("COPY t TO STDOUT (FORMAT binary)")),
            Step(query("COPY t FROM STDIN (FORMAT binary)"), kind="G"),
            Step(copy_data(b"no signature") + _COPY_DONE),
            Step(query("COPY (SELECT g, repeat('c', 300) FROM generate_series(1, 300) g) TO STDOUT")),
            Step(_COPY_DONE + copy_fail(b"out of place") + SYNC),
        ],
    ),
    Script(
        "COPY in the extended protocol",
        [
            Step(query(_TABLE)),
            Step(
                parse("", "COPY t FROM STDIN") + bind("", "") + describe("P", "") + execute("") + FLUSH,
                kind="G",
            ),
            Step(copy_data(b"1\ta\n") + _COPY_DONE + SYNC),
            # As drivers do it: the first Sync is swallowed by the COPY.
            Step(parse("", "COPY t FROM STDIN") + bind("", "") + execute("") + SYNC, kind="G"),
            Step(copy_data(b"2\tb\n") + _COPY_DONE + SYNC),
            Step(parse("", "COPY t FROM STDIN") + bind("", "") + execute("") + SYNC, kind="G"),
            Step(copy_data(b"x\tb\n") + copy_data(b"3\tc\n") + _COPY_DONE + SYNC),
            Step(parse("", "COPY t FROM STDIN") + bind("", "") + execute("") + SYNC, kind="G"),
            Step(copy_fail(b"no") + SYNC),
            Step(run("COPY t FROM STDIN") + copy_data(b"4\td\n") + _COPY_DONE + run("SELECT count(*) FROM t") + SYNC),
            Step(run("COPY t TO STDOUT") + SYNC),
            Step(run("COPY nothing FROM STDIN") + copy_data(b"5\te\n") + _COPY_DONE + SYNC),
            Step(parse("", "COPY t TO STDOUT") + bind("", "") + execute("", 1) + SYNC),
        ],
    ),
    Script(
        "function calls",
        [
            Step(function_call(177, [struct.pack("!i", 2), struct.pack("!i", 3)])),  # int4pl
            Step(function_call(177, [b"2", b"3"], binary=False)),
            Step(function_call(154, [struct.pack("!i", 1), struct.pack("!i", 0)])),  # int4div by zero
            Step(function_call(177, [None, struct.pack("!i", 3)])),
            Step(function_call(999999, [])),
            Step(function_call(177, [struct.pack("!i", 2)])),
            Step(query("BEGIN") + query("SELECT lo_create(900001)"), count=2),
            Step(function_call(952, [struct.pack("!I", 900001), struct.pack("!i", 0x60000)])),  # lo_open
            Step(function_call(955, [struct.pack("!i", 0), b"written by function call"])),  # lowrite
            Step(function_call(956, [struct.pack("!i", 0), struct.pack("!i", 2), struct.pack("!i", 0)])),  # lo_lseek
            Step(function_call(954, [struct.pack("!i", 0), struct.pack("!i", 100)])),  # loread
            Step(function_call(953, [struct.pack("!i", 0)])),  # lo_close
            Step(query("ROLLBACK")),
        ],
    ),
    Script(
        "notices, notifications and parameters",
        [
            Step(query("LISTEN a; NOTIFY a, 'self'")),
            Step(run("NOTIFY a, 'extended'") + SYNC),
            Step(query("SET application_name = 'x'; SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'")),
            Step(query("BEGIN; SET LOCAL TimeZone = 'UTC'; SELECT 1/0") + query("ROLLBACK"), count=2),
            Step(query("DO $$ BEGIN FOR i IN 1..40 LOOP RAISE NOTICE '%', repeat('n', i * 300); END LOOP; END $$")),
            Step(query("DO $$ BEGIN RAISE EXCEPTION '%', repeat('e', 30000); END $$")),
            Step(
                query(
                    "SELECT length(set_config('search_path', string_agg('schema_' || g, ','), false))"
                    " FROM generate_series(1, 3000) g"
                )
            ),
            Step(query("SELECT pg_notify('a', repeat('p', 7999))")),
            Step(query("RESET ALL")),
            Step(query("DISCARD ALL")),
        ],
    ),
    Script(
        "start-up parameters",
        [
            Step(
                query("SHOW work_mem; SHOW application_name; SHOW my.own; SHOW TimeZone; RESET work_mem; SHOW work_mem")
            )
        ],
        parameters={
            "options": "-c work_mem=5MB -c my.own=a\\ b -c geqo=off",
            "application_name": "näme",
            "TimeZone": "Asia/Kathmandu",
            "client_encoding": "LATIN1",
        },
    ),
    Script("an unknown start-up parameter", [Step(b"", kind="")], parameters={"no_such_setting": "1"}),
    Script("a bad start-up value", [Step(b"", kind="")], parameters={"work_mem": "lots"}),
    Script("bad options", [Step(b"", kind="")], parameters={"options": "-c nonsense"}),
    Script(
        "a query behind the start-up packet",
        [Step(query("SELECT 2"), count=2)],
    ),
    Script(
        "a logical replication connection",
        [
            Step(query("SHOW work_mem")),
            Step(query("SELECT 1; SELECT 2")),
            Step(query("TIMELINE_HISTORY 99")),
            Step(query("START_REPLICATION SLOT nothing LOGICAL 0/0")),
            Step(query("DROP_REPLICATION_SLOT nothing")),
            Step(query("IDENTIFY_NONSENSE")),
            Step(run("SELECT 1") + SYNC),
        ],
        parameters={"replication": "database"},
    ),
    Script(
        "a physical replication connection",
        [
            Step(query("SHOW data_checksums")),
            Step(query("SELECT 1")),
            Step(query("READ_REPLICATION_SLOT nothing")),
        ],
        parameters={"replication": "true"},
    ),
    # A server before 18 answers with version 3.0; the proxy has told the client already that 3.2 is fine.
    Script("protocol 3.2", least_major=18, steps=[Step(query("SELECT 1"))], protocol=PROTOCOL | 2),
    Script("a protocol option", [Step(query("SELECT 1"))], parameters={"_pq_.option": "1"}),
    Script("the end in the middle of an extended query", [Step(run("SELECT 1") + TERMINATE, kind="")]),
    # The server reads on to the Sync, and the query in between is never answered.
    Script(
        "a query behind a failed extended one",
        [Step(run("SELECT 1/0") + query("SELECT 'skipped'") + SYNC)],
        loses_count=True,
    ),
    Script(
        "a query in the middle of COPY",
        [
            Step(query(_TABLE) + query("COPY t FROM STDIN"), kind="G"),
            Step(copy_data(b"1\ta\n") + query("SELECT 1"), kind=""),
        ],
        cut_off=True,
    ),
    Script(
        "the end in the middle of COPY",
        [
            Step(query(_TABLE) + query("COPY t FROM STDIN"), kind="G"),
            Step(copy_data(b"1\ta\n") + TERMINATE, kind=""),
        ],
    ),
]
