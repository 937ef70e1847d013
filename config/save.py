"""Write the swap into both files, so that a restart finds what is running.

Never raises: the run is over by then. Nothing depends on it for safety either, since a restart asks the
decision record in the databases before it believes a file. It keeps the files honest.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .document import read_text
from .edit import swap_config_text, swap_users_text
from .load import PathLike, load_texts
from .model import Config
from .problems import ConfigError


@dataclass(frozen=True, slots=True)
class SaveResult:
    """`saved`: both files show the swap. `warnings`: what went wrong, and what to do about it."""

    saved: bool
    written: tuple[str, ...] = ()
    backups: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class _Refused(Exception):
    """The files are left as they are; the text says why."""


@dataclass(slots=True)
class _File:
    """One of the two files: its text as read, and as it is to be."""

    shown: str
    path: Path
    old: str
    new: str = ""
    status: os.stat_result | None = None
    prepared: str | None = None
    backup: Path = field(default=Path())


def save_swapped(
    config_path: PathLike,
    users_path: PathLike,
    pair_source: str,
    pair_destination: str,
    *,
    running: Config | None = None,
    environ: Mapping[str, str] = os.environ,
) -> SaveResult:
    """Exchange the names of the two databases in both files, as `Config.swapped` does.

    `running` is the configuration in effect now, after the swap. With it, files that somebody changed in the
    meantime are left alone with a warning, and files that already show the swap are left alone without.
    Backups are `*.bak.toml` beside the files. Both files change, or neither; where that could not be kept, a
    warning says which file shows what. Blocks on the disk: from asyncio call it in a thread.
    """
    warnings: list[str] = []
    names = f'"{pair_source}" and "{pair_destination}"'
    try:
        config_file, users_file = _read(config_path), _read(users_path)
        disk = _load(config_file, users_file, config_file.old, users_file.old, environ)
        if not _needs_swap(disk, running, pair_source, pair_destination):
            return SaveResult(saved=True)
        config_file.new = swap_config_text(config_file.old, pair_source, pair_destination)
        users_file.new = swap_users_text(users_file.old, pair_source, pair_destination)
        swapped = _load(config_file, users_file, config_file.new, users_file.new, environ)
        if swapped != disk.swapped(pair_source, pair_destination):
            raise _Refused("the edited files would not mean the same as the running configuration")
        files = [config_file, users_file]
        _name_backups(files)
        _write(files, warnings)
    except (_Refused, OSError) as error:
        reason = _reason(error) if isinstance(error, OSError) else str(error)
        advice = f"exchange the names {names} in both files yourself"
        return SaveResult(saved=False, warnings=(*warnings, f"the swap was not saved: {reason}; {advice}"))
    return SaveResult(
        saved=True,
        written=tuple(file.shown for file in files),
        backups=tuple(str(file.backup) for file in files),
        warnings=tuple(warnings),
    )


def _read(path: PathLike) -> _File:
    """Follows symbolic links, so that the link stays and the file that it leads to changes."""
    real = Path(os.path.realpath(path))
    text, problem = read_text(Path(path))
    if text is None:
        raise _Refused(str(problem))
    return _File(str(path), real, text, status=real.stat())


def _load(
    config_file: _File, users_file: _File, config_text: str, users_text: str, environ: Mapping[str, str]
) -> Config:
    try:
        return load_texts(config_file.shown, config_text, users_file.shown, users_text, environ)
    except ConfigError as error:
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        raise _Refused(f"the files have problems now: {error.problems[0]}{more}") from error


def _needs_swap(disk: Config, running: Config | None, source: str, destination: str) -> bool:
    """Raises _Refused where the files are neither as `running`, after the swap, nor as it was before."""
    for name in (source, destination):
        if disk.database(name) is None:
            raise _Refused(f'the file has no database "{name}" any more')
    if running is None:
        return True
    if _names(disk, source, destination) == _names(running, source, destination):
        return False
    before = running.swapped(source, destination)
    if _names(disk, source, destination) == _names(before, source, destination):
        return True
    differing = next(
        (
            f'"{name}" is {_address(disk, name)} in the file and was {_address(before, name)} in the daemon'
            for name in (source, destination)
            if _address(disk, name) != _address(before, name)
        ),
        f'the users of "{source}" and "{destination}" in the file are not those of the daemon',
    )
    raise _Refused(f"the files were edited and not reloaded: {differing}")


def _names(config: Config, source: str, destination: str) -> object:
    """What the swap exchanges: where the two names lead, and who has them."""
    pair = (source, destination)
    users = frozenset((user.name, user.database) for user in config.users if user.database in pair)
    return [_address(config, name) for name in pair], users


def _address(config: Config, name: str) -> str:
    database = config.database(name)
    return "nothing" if database is None else f"{database.host}:{database.port}/{database.server_database}"


def _name_backups(files: list[_File]) -> None:
    for file in files:
        file.backup = file.path.with_name(f"{file.path.stem}.bak.toml")
    if files[0].backup == files[1].backup:  # app.toml and app.users, say
        for file in files:
            file.backup = file.path.with_name(f"{file.path.name}.bak.toml")


def _write(files: list[_File], warnings: list[str]) -> None:
    """Everything that can fail comes before the first rename; what is left then is two renames."""
    try:
        for file in files:
            _put(file, file.backup, file.old)
        for file in files:
            file.prepared = _prepare(file, file.path, file.new, warnings)
        for file in files:
            if read_text(file.path)[0] != file.old:
                raise _Refused(f"{file.shown} was changed by somebody else just now")
        _rename(files)
    finally:
        for file in files:
            if file.prepared is not None:
                Path(file.prepared).unlink(missing_ok=True)
    for folder in {file.path.parent for file in files}:
        try:
            _sync_folder(folder)
        except OSError as error:
            warnings.append(f"the saved files may not survive a power failure: {error.strerror}: {folder}")


def _rename(files: list[_File]) -> None:
    first, second = files
    assert first.prepared is not None
    assert second.prepared is not None
    os.replace(first.prepared, first.path)
    try:
        os.replace(second.prepared, second.path)
    except OSError as error:
        try:
            _put(first, first.path, first.old)
        except OSError as undo_error:
            raise _Refused(
                f"{first.shown} shows the swap and {second.shown} does not ({error.strerror}), which "
                f"could not be undone ({undo_error.strerror}): copy {first.backup} over {first.shown}"
            ) from error
        raise


def _put(file: _File, target: Path, text: str) -> None:
    """Write `target` in one go, or leave it as it is."""
    prepared = _prepare(file, target, text, [])
    try:
        os.replace(prepared, target)
    except OSError:
        Path(prepared).unlink(missing_ok=True)
        raise


def _prepare(file: _File, target: Path, text: str, warnings: list[str]) -> str:
    """A finished file of the same mode and owner beside `target`, on disk; returns its path."""
    status = file.status
    assert status is not None
    descriptor, path = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            if not _same_owner(descriptor, status):
                warnings.append(f"{file.shown} changed its owner: only root could have kept it")
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            os.fsync(descriptor)
    except OSError:
        Path(path).unlink(missing_ok=True)
        raise
    return path


def _same_owner(descriptor: int, status: os.stat_result) -> bool:
    for owner in (status.st_uid, -1):
        try:
            os.fchown(descriptor, owner, status.st_gid)
            break
        except PermissionError:
            continue
    now = os.fstat(descriptor)
    return (now.st_uid, now.st_gid) == (status.st_uid, status.st_gid)


def _reason(error: OSError) -> str:
    return ": ".join(str(part) for part in (error.strerror, error.filename) if part) or str(error)


def _sync_folder(folder: Path) -> None:
    """A rename is durable once its folder is (fsync(2), notes)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
