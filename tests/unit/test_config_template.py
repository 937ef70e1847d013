"""The commented files that `init` writes: complete, loadable, and made from the model alone."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from config.fields import CONFIG_SECTIONS, USERS_SECTIONS, FieldSpec, SectionSpec, fields_of
from config.load import load_texts
from config.model import Admin, Config, General, Http, Replication
from config.template import render_example, render_init

FILES = render_init(admin_password='quo"te')

ALL_KEYS = [
    (text, section, field)
    for text, sections in ((FILES.config, CONFIG_SECTIONS), (FILES.users, USERS_SECTIONS))
    for section in sections
    for field in section.fields.values()
]


def _load(config: str, users: str) -> Config:
    return load_texts("pgcutover.toml", config, "users.toml", users, {})


def _block(text: str, section: SectionSpec) -> str:
    """The first table of that name, up to the next one."""
    start = text.index(f"\n{section.header}\n") + 1
    end = text.find("\n[", start + 1)
    return text[start : end if end > 0 else len(text)]


def test_what_init_writes_loads() -> None:
    config = _load(FILES.config, FILES.users)
    assert config.general == General()
    assert config.replication == Replication()
    assert config.http == Http()
    assert config.admin.password.get_secret_value() == 'quo"te'
    assert config.pair("app") is not None


@pytest.mark.parametrize(("text", "section", "field"), ALL_KEYS, ids=lambda v: getattr(v, "name", ""))
def test_every_key_is_there_with_description_and_default(text: str, section: SectionSpec, field: FieldSpec) -> None:
    block = _block(text, section)
    found = re.search(rf"((?:^# .*\n)+?)^(?:# )?{field.name} = (.*)$", block, re.MULTILINE)
    assert found is not None
    comment = " ".join(line.removeprefix("# ") for line in found[1].splitlines())
    assert field.description
    assert field.description in comment
    for choice in field.choices:
        assert choice in comment
    if field.default is not None:
        assert f"default: {json.dumps(field.default)}" in comment
    elif field.required:
        assert "required" in comment
    else:
        assert "default:" in comment
    if field.unit is not None:
        assert field.unit in comment


def test_keys_behind_a_hash_are_the_defaults() -> None:
    """With every # before a key taken away the file is still TOML, and says what the model says by itself."""
    text = re.sub(r"^# (\w+ = )", r"\1", FILES.config, flags=re.MULTILINE)
    general = tomllib.loads(text)["general"]
    for name, field in fields_of(General).items():
        expected = field.default if field.default is not None else field.example
        assert general[name] == expected
        assert type(general[name]) is type(expected)
    for name in ("tls_certificate", "tls_private_key", "tls_client_ca_certificate"):
        general.pop(name)
    assert General.model_validate(general) == General()


def test_all_sections_are_there_in_the_order_of_the_model() -> None:
    headers = re.findall(r"^\[.*\]$", FILES.config, re.MULTILINE)
    assert list(dict.fromkeys(headers)) == [section.header for section in CONFIG_SECTIONS]
    assert {section.model for section in CONFIG_SECTIONS} >= {General, Admin, Http, Replication}


def test_lines_fit_a_terminal() -> None:
    assert max(map(len, (FILES.config + FILES.users).splitlines())) <= 110


def test_the_examples_in_deploy_are_up_to_date() -> None:
    """They are what `pgcutover init` writes, but for the password."""
    deploy, example = Path(__file__).parents[2] / "deploy", render_example()
    for name, text in (("pgcutover.toml", example.config), ("users.toml", example.users)):
        assert (deploy / name).read_text() == text, f"deploy/{name} is not what config.template renders"
