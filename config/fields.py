"""The keys of the model as a table: kind, range, choices, default. For the checks and the templates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .model import Admin, CutoverPair, Database, General, Http, PathMark, Replication, Section, Unit, User


class Kind(StrEnum):
    INTEGER = "integer"
    BOOLEAN = "boolean"
    STRING = "string"
    CHOICE = "choice"
    SECRET = "secret"


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One key. `default` is None where there is none; `example` shows then what a value looks like."""

    name: str
    kind: Kind
    description: str
    required: bool
    default: str | int | bool | None
    example: str | int | bool | None
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    unit: str | None = None
    path: PathMark | None = None


@dataclass(frozen=True, slots=True)
class SectionSpec:
    """One table of a file; `array` where it is written `[[name]]`."""

    name: str
    model: type[Section]
    array: bool = False

    @property
    def header(self) -> str:
        return f"[[{self.name}]]" if self.array else f"[{self.name}]"

    @property
    def fields(self) -> dict[str, FieldSpec]:
        return fields_of(self.model)


CONFIG_SECTIONS = (
    SectionSpec("general", General),
    SectionSpec("admin", Admin),
    SectionSpec("http", Http),
    SectionSpec("replication", Replication),
    SectionSpec("databases", Database, array=True),
    SectionSpec("cutover", CutoverPair, array=True),
)
USERS_SECTIONS = (SectionSpec("users", User, array=True),)

SECRET_SUFFIXES = ("", "_file", "_env")
"""A secret is given as the key itself, or as a file or an environment variable that holds it."""


def fields_of(model: type[Section]) -> dict[str, FieldSpec]:
    return {name: _spec(name, info) for name, info in model.model_fields.items()}


def keys_of(model: type[Section]) -> Iterator[str]:
    """Every key that a file may use: the fields, and for secrets their `_file` and `_env` forms."""
    for spec in fields_of(model).values():
        suffixes = SECRET_SUFFIXES if spec.kind is Kind.SECRET else ("",)
        yield from (spec.name + suffix for suffix in suffixes)


def _spec(name: str, info: FieldInfo) -> FieldSpec:
    bare, metadata = _unwrap(info.annotation)
    marks = [*metadata, *info.metadata]
    return FieldSpec(
        name=name,
        kind=_kind(bare),
        description=info.description or "",
        required=info.is_required(),
        default=_default(info),
        example=info.examples[0] if info.examples else None,
        choices=_choices(bare),
        minimum=_bound(mark.ge for mark in marks if isinstance(mark, Ge)),
        maximum=_bound(mark.le for mark in marks if isinstance(mark, Le)),
        unit=next((mark.name for mark in marks if isinstance(mark, Unit)), None),
        path=next((mark for mark in marks if isinstance(mark, PathMark)), None),
    )


def _bound(bounds: Iterable[Any]) -> int | None:
    """pydantic lets the last of several bounds win."""
    last: int | None = None
    for last in bounds:  # noqa: B007
        pass
    return last


def _unwrap(annotation: Any) -> tuple[Any, list[Any]]:
    """`Annotated[X, ...] | None` to X and everything that was said about it."""
    metadata: list[Any] = []
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *found = get_args(annotation)
            for mark in found:
                metadata.extend(mark.metadata if isinstance(mark, FieldInfo) else [mark])
        elif origin in (Union, UnionType):
            (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
        else:
            return annotation, metadata


def _kind(bare: Any) -> Kind:
    if get_origin(bare) is Literal or (isinstance(bare, type) and issubclass(bare, Enum)):
        return Kind.CHOICE
    return {bool: Kind.BOOLEAN, int: Kind.INTEGER, str: Kind.STRING, SecretStr: Kind.SECRET}[bare]


def _choices(bare: Any) -> tuple[str, ...]:
    if get_origin(bare) is Literal:
        return get_args(bare)
    if isinstance(bare, type) and issubclass(bare, Enum):
        return tuple(str(member.value) for member in bare)
    return ()


def _default(info: FieldInfo) -> str | int | bool | None:
    value = info.default
    if value is PydanticUndefined or value is None:
        return None
    return str(value.value) if isinstance(value, Enum) else value
