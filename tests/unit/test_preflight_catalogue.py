from __future__ import annotations

import ast
import inspect
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from config.model import SslMode
from replication.endpoint import Endpoint
from replication.preflight import CATALOGUE, GROUPS, CheckContext, Phase, Severity, Where
from replication.preflight.model import redact
from replication.preflight.registry import check

# What an operator may rely on: none of these may disappear or get weaker.
_BLOCKING = set(
    re.findall(
        r"\w+",
        """
        N01 N02 N03 N04 N05 S01a S01b S01c S01f S01g S02 S03 S04 R01 R02
        T01 T02 T03 T04 T05 T06 T07a T07d T08 T09 T10 D01 D01b D02 D03 D06 D07 D08 K02 Q01a
        G04a G04b G04c X01 X02 C01 P01 P02a P02c P02d P03 P03b P04a P04b P04f P05a P05b P05c P05d P09
        """,
    )
)
_OTHERS = set(re.findall(r"\w+", "S01d S01e T07b T07c D05 K01 Q02 Q03 Q05 G01 G02 G03 G05 C02 P02b P04e P04g P10 P11"))


def test_the_catalogue_is_complete() -> None:
    assert set(CATALOGUE) == _BLOCKING | _OTHERS
    assert {id for id, entry in CATALOGUE.items() if entry.severity is Severity.BLOCK} == _BLOCKING


def test_every_entry_says_what_it_is_about() -> None:
    titles = [entry.title for entry in CATALOGUE.values()]
    assert len(set(titles)) == len(titles)
    for id, entry in CATALOGUE.items():
        assert entry.id == id
        assert entry.title
        assert entry.phases <= set(Phase)
        assert entry.phases
        assert isinstance(entry.where, Where)


def test_a_check_reports_under_its_own_id_and_never_worse_than_the_catalogue_says() -> None:
    for entry in CATALOGUE.values():
        source = inspect.getsource(entry.run)
        used = set(re.findall(r'Finding\(\s*"([A-Z]\d\d[a-z]?)"', source))
        assert used <= {entry.id}
        if entry.severity is not Severity.BLOCK:
            assert "Severity.BLOCK" not in source.split("async def")[1]


def test_no_statement_uses_a_backslash() -> None:
    """Its meaning depends on standard_conforming_strings, which the operator may have turned off."""
    for module in GROUPS:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "select" in node.value:
                assert "\\" not in node.value


def test_an_id_is_registered_once() -> None:
    with pytest.raises(ValueError, match="N01"):
        check("N01", "again", Severity.INFO, Where.BOTH)(CATALOGUE["N01"].run)


def test_passwords_are_taken_out_of_messages() -> None:
    def side(password: str | None) -> Any:
        endpoint = Endpoint("app", "h", 1, "d", "u", password, SslMode.DISABLE)
        return SimpleNamespace(endpoint=endpoint)

    context = cast("CheckContext", SimpleNamespace(both=(side("first one"), side(None))))
    assert redact("refused: password=first one, user u", context) == "refused: password=***, user u"
