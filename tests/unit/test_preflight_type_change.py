from __future__ import annotations

import pytest

from replication.preflight.type_change import takes_all_values


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("integer", "integer"),
        ("smallint", "integer"),
        ("integer", "bigint"),
        ("integer", "numeric"),
        ("bigint", "numeric"),
        ("real", "double precision"),
        ("character varying(10)", "character varying(20)"),
        ("character varying(10)", "character varying"),
        ("character varying(10)", "text"),
        ("character(10)", "character varying(10)"),
        ("text", "character varying"),
        ("uuid", "text"),
        ("integer[]", "text"),
        ("timestamp(3) with time zone", "text"),
        ("json", "jsonb"),
        ("numeric(10,2)", "numeric"),
        ("numeric(10,2)", "numeric(12,4)"),
        ("numeric(10)", "numeric(11)"),
        ('shop."odd type"', "text"),
    ],
)
def test_every_value_is_taken(source: str, destination: str) -> None:
    assert takes_all_values(source, destination)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("bigint", "integer"),
        ("text", "integer"),
        ("bigint", "double precision"),  # 2^53 + 1 is not one of its values
        ("numeric", "bigint"),
        ("numeric", "numeric(10,2)"),
        ("numeric(10,2)", "numeric(10,4)"),  # 12345678.90 has no place
        ("text", "character varying(10)"),
        ("character varying(20)", "character varying(10)"),
        ("timestamp without time zone", "timestamp with time zone"),
        ("timestamp(6) with time zone", "timestamp(0) with time zone"),
        ("integer[]", "bigint[]"),
        ("integer", "integer[]"),
        ("integer", "text[]"),
        ("jsonb", "json"),
        ("shop.mood", "shop.other"),
    ],
)
def test_what_is_not_certain_is_not_promised(source: str, destination: str) -> None:
    assert not takes_all_values(source, destination)
