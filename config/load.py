"""Both files to one checked `Config`, or everything that is wrong with them at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .document import Document, parse, read_text
from .fields import CONFIG_SECTIONS, USERS_SECTIONS
from .files import check_database_files, check_general_files, check_replication_files
from .model import Admin, Config, General, Http, Replication
from .problems import ConfigError, Problem
from .references import Entries, check_references
from .structure import Entry, read_array, read_table, unknown_sections

_SECTIONS = {spec.name: spec for spec in (*CONFIG_SECTIONS, *USERS_SECTIONS)}

PathLike = str | os.PathLike[str]


def load(config_path: PathLike, users_path: PathLike, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check both files. Raises ConfigError with all problems, each with file and line.

    Secrets are resolved (`*_file`, `*_env`), and paths are absolute: relative ones start at the folder of
    the file that names them.
    """
    texts, problems = [], []
    for path in (Path(config_path), Path(users_path)):
        text, problem = read_text(path)
        texts.append(text)
        problems += [problem] if problem is not None else []
    return _load(Path(config_path), texts[0], Path(users_path), texts[1], environ, problems)


def load_texts(
    config_path: PathLike,
    config_text: str,
    users_path: PathLike,
    users_text: str,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """As `load`, for texts that are not (yet) what the two files contain."""
    return _load(Path(config_path), config_text, Path(users_path), users_text, environ, [])


def load_console(config_path: PathLike, environ: Mapping[str, str] = os.environ) -> tuple[General, Admin]:
    """What a console client needs of the configuration file: where to connect and as whom.

    Raises ConfigError; problems in other sections are not looked for.
    """
    text, problem = read_text(Path(config_path))
    problems = [problem] if problem is not None else []
    document = _parse(Path(config_path), text, problems)
    entries = Entries()
    if document is not None:
        _read_settings(document, environ, entries, problems)
    if problems or entries.admin is None or entries.admin.model is None:
        raise ConfigError(sorted(problems))
    return entries.settings, entries.admin.model


def _load(
    config_path: Path,
    config_text: str | None,
    users_path: Path,
    users_text: str | None,
    environ: Mapping[str, str],
    problems: list[Problem],
) -> Config:
    entries = Entries()
    replication: Entry[Replication] | None = None
    document = _parse(config_path, config_text, problems)
    users_document = _parse(users_path, users_text, problems)
    if document is not None:
        problems += unknown_sections(document, CONFIG_SECTIONS)
        _read_settings(document, environ, entries, problems)
        replication = read_table(document, _SECTIONS["replication"], environ, problems)
        entries.databases = read_array(document, _SECTIONS["databases"], environ, problems)
        entries.cutover = read_array(document, _SECTIONS["cutover"], environ, problems)
    if users_document is not None:
        problems += unknown_sections(users_document, USERS_SECTIONS)
        entries.users = read_array(users_document, _SECTIONS["users"], environ, problems)
    if document is not None:
        problems += check_references(entries, users_known=users_document is not None)
        problems += _file_problems(entries, replication)
    if problems:
        # In the order of the files as given, then of the lines, so that they can be mended top to bottom.
        order = {str(config_path): 0, str(users_path): 1}
        raise ConfigError(sorted(set(problems), key=lambda p: (order.get(p.file, 2), p.line, p.key, p.message)))
    return _config(entries, replication)


def _parse(path: Path, text: str | None, problems: list[Problem]) -> Document | None:
    if text is None:
        return None
    document, problem = parse(path, text)
    problems += [problem] if problem is not None else []
    return document


def _read_settings(document: Document, environ: Mapping[str, str], entries: Entries, problems: list[Problem]) -> None:
    entries.general = read_table(document, _SECTIONS["general"], environ, problems)
    entries.admin = read_table(document, _SECTIONS["admin"], environ, problems)
    entries.http = read_table(document, _SECTIONS["http"], environ, problems)
    if "admin" not in document.values:
        message = "the section is missing; write [admin] with a password (or password_file, or password_env)"
        problems.append(document.problem((), "admin", message))


def _file_problems(entries: Entries, replication: Entry[Replication] | None) -> list[Problem]:
    problems: list[Problem] = []
    if entries.general is not None:
        problems += check_general_files(entries.general)
    if replication is not None:
        problems += check_replication_files(replication)
    for database in entries.databases:
        problems += check_database_files(database)
    return problems


def _config(entries: Entries, replication: Entry[Replication] | None) -> Config:
    """All entries have whole models here: those without one have problems, and problems were raised."""
    admin = entries.admin.model if entries.admin is not None else None
    assert admin is not None
    http: Http | None = entries.http.model if entries.http is not None else None
    moved = replication.model if replication is not None else None
    return Config(
        general=entries.settings,
        admin=admin,
        http=http,
        replication=moved if moved is not None else Replication(),
        databases=tuple(entry.model for entry in entries.databases if entry.model is not None),
        cutover=tuple(entry.model for entry in entries.cutover if entry.model is not None),
        users=tuple(entry.model for entry in entries.users if entry.model is not None),
    )
