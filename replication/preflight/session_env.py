"""Whether a client's session behaves the same on the destination: settings, encoding, sort order."""

from __future__ import annotations

from ..session import ControlSession, connect
from .fragments import some
from .model import CheckContext, Finding, Severity, Where
from .registry import check

# Another meaning of the same statement or bytes; everything else a client may or may not notice.
_BLOCKING = ("server_encoding", "standard_conforming_strings")

_NOTICEABLE = (
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "check_function_bodies",
    "client_min_messages",
    "DateStyle",
    "default_tablespace",
    "default_text_search_config",
    "default_toast_compression",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "enable_bitmapscan",
    "enable_hashagg",
    "enable_hashjoin",
    "enable_indexonlyscan",
    "enable_indexscan",
    "enable_material",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_partitionwise_aggregate",
    "enable_partitionwise_join",
    "enable_seqscan",
    "enable_sort",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "integer_datetimes",
    "IntervalStyle",
    "jit",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "max_prepared_transactions",
    "password_encryption",
    "quote_all_identifiers",
    "random_page_cost",
    "row_security",
    "search_path",
    "session_preload_libraries",
    "session_replication_role",
    "shared_preload_libraries",
    "statement_timeout",
    "synchronous_commit",
    "temp_tablespaces",
    "TimeZone",
    "timezone_abbreviations",
    "transform_null_equals",
    "work_mem",
    "xmlbinary",
    "xmloption",
)


@check("R02", "settings that clients notice are the same", Severity.BLOCK, Where.BOTH)
async def check_client_settings(context: CheckContext) -> list[Finding]:
    """Asked by sessions without our own settings, so that they see what a client gets."""
    here, there = await _client_settings(context.source), await _client_settings(context.destination)
    return [
        Finding(
            "R02",
            Severity.BLOCK if name in _BLOCKING else Severity.WARN,
            context.on(context.destination, name),
            f"{name} is '{there[name]}' here, '{here[name]}' on the source",
            "make a new database with the encoding of the source"
            if name == "server_encoding"
            else f"ALTER DATABASE ... SET {name} = ...; on one of the sides",
        )
        for name in (*_BLOCKING, *_NOTICEABLE)
        if name in here and name in there and here[name] != there[name]
    ]


async def _client_settings(session: ControlSession) -> dict[str, str]:
    async with await connect(session.endpoint, plain=True) as plain:
        rows = await plain.fetch(
            "select name, setting from pg_catalog.pg_settings where name = any ($1::pg_catalog.text[])",
            [*_BLOCKING, *_NOTICEABLE],
        )
    return {row["name"]: row["setting"] for row in rows}


@check("C01", "encoding and sort order are the same", Severity.BLOCK, Where.BOTH)
async def check_locale(context: CheckContext) -> list[Finding]:
    source, destination = [await _locale(session) for session in context.both]
    findings: list[Finding] = []
    for key, (severity, words) in _LOCALE.items():
        if source[key] != destination[key]:
            findings.append(
                Finding(
                    "C01",
                    severity,
                    context.on(context.destination, key),
                    f"{words} is '{destination[key]}' here, '{source[key]}' on the source",
                    "create the destination database anew with the same encoding and locale"
                    if severity is Severity.BLOCK
                    else "check sort order, text ranges of partitions, and unique keys on text",
                )
            )
    return findings


_LOCALE = {
    "encoding": (Severity.BLOCK, "the encoding"),
    "collate": (Severity.WARN, "LC_COLLATE"),
    "ctype": (Severity.WARN, "LC_CTYPE"),
    "provider": (Severity.WARN, "the locale provider"),
    "locale": (Severity.WARN, "the locale of the provider"),
    "version": (Severity.WARN, "the version of the collation library"),
}


async def _locale(session: ControlSession) -> dict[str, str]:
    # to_jsonb: provider, locale and version came with 15; 17 renamed daticulocale to datlocale.
    row = await session.fetchrow(
        "select pg_encoding_to_char(d.encoding)::text as encoding, d.datcollate::text as collate,"
        " d.datctype::text as ctype, coalesce(j ->> 'datlocprovider', 'c') as provider,"
        " coalesce(j ->> 'datlocale', j ->> 'daticulocale', '') as locale,"
        " coalesce(j ->> 'datcollversion', '') as version"
        " from pg_database d, to_jsonb(d) j where d.datname = current_database()"
    )
    assert row is not None
    return dict(row)


@check("C02", "collations match their library", Severity.WARN, Where.BOTH)
async def check_collation_versions(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for session in context.both:
        rows = await session.fetch(
            "select format('%I.%I', n.nspname, c.collname) as name from pg_collation c"
            " join pg_namespace n on n.oid = c.collnamespace where c.collversion is not null"
            " and c.collversion is distinct from pg_collation_actual_version(c.oid) order by 1"
        )
        if rows:
            names = [row["name"] for row in rows]
            finding = f"{len(names)} collations were made with another version of their library: {some(names)}"
            remedy = "REINDEX what uses them, then ALTER COLLATION ... REFRESH VERSION"
            findings.append(Finding("C02", Severity.WARN, context.on(session), finding, remedy))
    return findings
