"""Passwords that stand in the file, in a file of their own, or in the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .document import Document
from .fields import SECRET_SUFFIXES
from .lines import Path
from .problems import Problem

_SCRAM_VERIFIER = re.compile(r"SCRAM-SHA-256\$\d+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+")
_MD5_HASH = re.compile(r"md5[0-9a-f]{32}")


def is_scram_verifier(password: str) -> bool:
    """The form of pg_authid.rolpassword: SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>."""
    return _SCRAM_VERIFIER.fullmatch(password) is not None


def is_md5_hash(password: str) -> bool:
    return _MD5_HASH.fullmatch(password) is not None


def is_plain(password: str) -> bool:
    """Whether it can be used to log in to a server; a verifier or a hash only recognises a login."""
    return not is_scram_verifier(password) and not is_md5_hash(password)


def resolve(
    document: Document, path: Path, label: str, table: dict[str, Any], name: str, environ: Mapping[str, str]
) -> list[Problem]:
    """Replace `name`, `name_file` or `name_env` in `table` by `name` with the value.

    Where that fails the three keys are taken out and the problems returned.
    """
    given = [name + suffix for suffix in SECRET_SUFFIXES if name + suffix in table]
    values = {key: table.pop(key) for key in given}
    if not given:
        return []
    if len(given) > 1:
        place = (*path, given[-1])
        return [document.problem(place, f"{label}.{given[-1]}", f"give only one of {', '.join(given)}")]
    key, value = next(iter(values.items()))
    if not isinstance(value, str):
        message = f"must be a string in quotes, not {type_name(value)}"
    elif not value:
        message = "must not be empty"
    else:
        secret, message = _fetch(document, key.removeprefix(name), value, environ)
        if not message:
            table[name] = secret
            return []
    return [document.problem((*path, key), f"{label}.{key}", message)]


def type_name(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _fetch(document: Document, form: str, value: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The secret, or a message that says why there is none."""
    match form:
        case "_env":
            secret = environ.get(value)
            if secret is None:
                return "", f"the environment variable {value} is not set"
            what = f"the environment variable {value}"
        case "_file":
            file = document.folder / value
            try:
                secret = file.read_bytes().decode("utf-8")
            except OSError as error:
                return "", f"cannot read {file}: {error.strerror or error}"
            except UnicodeDecodeError:
                return "", f"{file} is not UTF-8 text"
            except ValueError:
                return "", f"{value!r} is not a path"
            secret = secret[:-2] if secret.endswith("\r\n") else secret.removesuffix("\n")
            what = str(file)
        case _:
            secret, what = value, "the password"
    if not secret:
        return "", f"{what} is empty"
    if secret.startswith("SCRAM-SHA-256$") and not is_scram_verifier(secret):
        return "", f"{what} starts like a SCRAM-SHA-256 verifier but is not a whole one; copy it again"
    return secret, ""
