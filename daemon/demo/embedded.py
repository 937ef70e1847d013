"""A PostgreSQL server of our own, for the demo, the benchmark and the tests: made, run, hurt and removed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from .binaries import Account, server_account, usable_bin_dir
from .processes import freeze_tree, kill_tree, thaw_tree, wait_gone

_START_DEADLINE_S = 30.0
_STOP_DEADLINE_S = 30.0
_PORT_ATTEMPTS = 5
_LOG_TAIL = 4000

# Signals of the shutdown modes: PostgreSQL documentation, 18.5 Shutting Down the Server.
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class EmbeddedError(RuntimeError):
    """The server could not be made or started; the text ends with its log."""


class EmbeddedPostgres:
    """One server of a given major version below `directory` (which gets `data/` and `server.log`).

    `settings` are configuration parameters. With `hba` the text of pg_hba.conf is replaced. With `password`
    the superuser gets it, and the default pg_hba.conf asks for it over TCP; without, everybody is trusted.
    All methods block; call them in a thread from async code. Usable as a context manager.
    """

    superuser = "postgres"
    host = "127.0.0.1"

    def __init__(
        self,
        major: int,
        directory: str | Path,
        *,
        settings: Mapping[str, str] | None = None,
        hba: str | None = None,
        password: str | None = None,
    ) -> None:
        self.major = major
        self.directory = Path(directory).absolute()
        self.data = self.directory / "data"
        self.log_path = self.directory / "server.log"
        self.settings = dict(settings or {})
        self.password = password
        self.port = 0
        self._hba = hba
        self._account: Account = server_account()
        self.bin_dir: Path = usable_bin_dir(major, self._account)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir: Path | None = None
        self._frozen = False

    def create(self) -> EmbeddedPostgres:
        """Run initdb. Raises EmbeddedError, also where the server's account cannot reach the directory."""
        self._make_directories()
        command = [str(self.bin_dir / "initdb"), "-D", str(self.data), "-U", self.superuser, "--no-sync"]
        command += ["-E", "UTF8", "--no-locale", "--auth-local=trust"]
        password_file: Path | None = None
        if self.password is not None:
            password_file = self.directory / "initial-password"
            password_file.touch(mode=0o600)
            password_file.write_text(self.password + "\n")
            self._account.own(password_file)
            command += ["--auth-host=scram-sha-256", f"--pwfile={password_file}"]
        else:
            command += ["--auth-host=trust"]
        try:
            done = subprocess.run(
                command,
                cwd=self.directory,
                capture_output=True,
                check=False,
                **self._account.popen_arguments(),
            )
        finally:
            if password_file is not None:
                password_file.unlink()
        if done.returncode != 0:
            raise EmbeddedError(f"initdb of PostgreSQL {self.major} failed: {done.stderr.decode()[-_LOG_TAIL:]}")
        if self._hba is not None:
            (self.data / "pg_hba.conf").write_text(self._hba)
        return self

    def start(self) -> EmbeddedPostgres:
        """Start and wait until it accepts connections. A restart keeps its port. Raises EmbeddedError."""
        if self.running:
            raise EmbeddedError(f"PostgreSQL {self.major} at port {self.port} runs already")
        if self._socket_dir is None:
            # sun_path holds 107 characters (unix(7)), and a data directory may lie deeper than that.
            self._socket_dir = Path(tempfile.mkdtemp(prefix="pgc-"))
            self._account.own(self._socket_dir)
        keep_port = self.port != 0
        for attempt in range(_PORT_ATTEMPTS):
            if not keep_port:
                self.port = free_port()
            log_start = self.log_path.stat().st_size
            self._spawn()
            if self._wait_ready():
                return self
            text = self.log_path.read_text(errors="replace")[log_start:]
            if "could not bind" not in text or attempt == _PORT_ATTEMPTS - 1:
                break
            if keep_port:
                time.sleep(0.2)
        raise EmbeddedError(f"PostgreSQL {self.major} did not start:\n{text[-_LOG_TAIL:]}")

    def stop(self, mode: str = "fast") -> None:
        """Shut down and wait; kills what has not ended after 30 s. No-op when it does not run."""
        if self._process is None:
            return
        if self.running:
            if self._frozen:
                self.thaw()
            self._process.send_signal(_STOP_SIGNALS[mode])
            try:
                self._process.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def kill(self) -> None:
        """kill -9 of the postmaster and every process it forked, as in a power cut (data files stay)."""
        if self._process is None:
            return
        killed = kill_tree(self._process.pid)
        self._process.wait()
        self._process = None
        self._frozen = False
        left = wait_gone(killed, 10.0)
        if left:
            raise EmbeddedError(f"processes {sorted(left)} of PostgreSQL {self.major} survive kill -9")

    def freeze(self) -> None:
        """SIGSTOP everything: connections stay open, nothing answers."""
        freeze_tree(self._require_pid())
        self._frozen = True

    def thaw(self) -> None:
        thaw_tree(self._require_pid())
        self._frozen = False

    def remove(self) -> None:
        """Stop and delete everything below the directory that we made."""
        self.stop("immediate")
        shutil.rmtree(self.data, ignore_errors=True)
        self._remove_socket_dir()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def socket_dir(self) -> Path | None:
        return self._socket_dir

    def dsn(self, database: str = "postgres") -> str:
        """A connection URI as the superuser over TCP (holds the password)."""
        secret = f":{quote(self.password, safe='')}" if self.password is not None else ""
        return f"postgresql://{self.superuser}{secret}@{self.host}:{self.port}/{quote(database, safe='')}"

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def __enter__(self) -> EmbeddedPostgres:
        if not self.data.exists():
            self.create()
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("immediate")
        self._remove_socket_dir()

    def _make_directories(self) -> None:
        if self.data.exists() and any(self.data.iterdir()):
            raise EmbeddedError(f"{self.data} is not empty")
        self.directory.mkdir(parents=True, exist_ok=True)
        _open_temporary_parents(self.directory, self._account)
        self._account.own(self.directory)
        if not self._account.can_enter(self.directory):
            raise EmbeddedError(
                f"the account that runs PostgreSQL (uid {self._account.uid}) cannot enter {self.directory}; "
                "choose another directory, or allow it with chmod o+x on its parents"
            )
        self.data.mkdir(mode=0o700, exist_ok=True)
        self._account.own(self.data)
        self.log_path.touch()

    def _spawn(self) -> None:
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self._socket_dir),
            **self.settings,
        }
        command = [str(self.bin_dir / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in our terminal is not the server's
                **self._account.popen_arguments(),
            )
        self._frozen = False

    def _wait_ready(self) -> bool:
        """True when it accepts connections, False when it ended. Raises EmbeddedError at the deadline.

        The last line of postmaster.pid tells, as pg_ctl reads it (miscadmin.h: LOCK_FILE_LINE_PM_STATUS).
        """
        assert self._process is not None
        deadline = time.monotonic() + _START_DEADLINE_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                return False
            lines = _lines(self.data / "postmaster.pid")
            if len(lines) >= 8 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                return True
            time.sleep(0.02)
        log = self.log_text()[-_LOG_TAIL:]
        self.kill()
        raise EmbeddedError(f"PostgreSQL {self.major} was not ready within {_START_DEADLINE_S:.0f} s:\n{log}")

    def _remove_socket_dir(self) -> None:
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._socket_dir = None

    def _require_pid(self) -> int:
        if self._process is None:
            raise EmbeddedError(f"PostgreSQL {self.major} does not run")
        return self._process.pid


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (FileNotFoundError, PermissionError):
        return []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _open_temporary_parents(directory: Path, account: Account) -> None:
    """Let the server's account pass through our own temporary folders; other folders are left as they are."""
    if not account.switch:
        return
    temporary = Path(tempfile.gettempdir()).resolve()
    for parent in (directory, *directory.parents):
        if temporary in parent.resolve().parents and parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)
