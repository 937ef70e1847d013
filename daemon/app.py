"""The daemon: puts the parts together, starts them in order, and ends them in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog
import uvloop

from admin.console import serve_console
from admin.services import ConsoleServices, ShutdownMode
from config.load import load
from config.model import Config, General
from config.problems import ConfigError, Problem
from config.reload import difference, reloadable
from config.save import save_swapped
from cutover.failpoints import Failpoints
from cutover.service import CannotServe, Moves
from proxy.control import ProxyControl
from proxy.errors import AdminShutdown, ProxyError
from proxy.net.client_login import ClientLogin
from proxy.net.frontend import Frontend
from proxy.net.janitor import sweep_for_ever
from proxy.net.listener import Listener, ListenerLimits
from proxy.net.port import HandshakePort
from proxy.net.tls import server_tls

from .http import HttpServer
from .logging import configure as configure_logging
from .metrics import Metrics
from .notify import Notifier
from .proxy_service import ProxyFacts
from .version import version

log = structlog.get_logger("daemon")

ANSWER_TIMEOUT_S = 0.25
"""At the end of the daemon, for a console to get the answer to its SHUTDOWN and to leave by itself."""

LAST_BYTES_TIMEOUT_S = 1.0
"""At the end of the daemon, for clients and servers to take what is still queued for them."""

CANCELS_TIMEOUT_S = 2.0
"""At the end of the daemon, for telling servers of requests that nobody waits for any more."""


def serve(config_path: Path, users_path: Path) -> int:
    """Run until told to stop; the exit status. Raises ConfigError for files that cannot be used."""
    config = load(config_path, users_path)
    configure_logging(config.general.log_level, config.general.log_format)
    return uvloop.run(_serve(config, config_path, users_path))


async def _serve(config: Config, config_path: Path, users_path: Path) -> int:
    daemon = Daemon(config, config_path, users_path)
    try:
        await daemon.start()
    except (CannotServe, ProxyError, OSError) as error:
        log.error("cannot_start", reason=str(error))
        await daemon.stop()
        return 1
    try:
        await daemon.run_until_stopped()
    finally:
        await daemon.stop()
    return 0


class Daemon:
    """One node. `start`, `run_until_stopped`, `stop`."""

    def __init__(self, config: Config, config_path: Path, users_path: Path) -> None:
        self._config_path = config_path
        self._users_path = users_path
        self._frontend = Frontend(config)
        self._control = ProxyControl(self._frontend)
        failpoints = Failpoints.from_environment()
        if failpoints.active:
            log.warning("failpoints_active")
        self._moves = Moves(
            self._control,
            node=f"{socket.gethostname()}:{config.general.port}",
            version=version(),
            failpoints=failpoints,
            save_config=self._save_config,
        )
        self._services = ConsoleServices(
            moves=self._moves,
            proxy=ProxyFacts(self._control),
            config=lambda: self._control.config,
            reload=self.reload,
            set_value=self._set_value,
            shutdown=self.shut_down,
            version=version(),
            started_at=datetime.now(UTC),
        )
        self._frontend.console = self._console
        self._frontend.console_cancel = self._services.cancels.cancel
        self._listener: Listener | None = None
        self._http: HttpServer | None = None
        if config.http is not None:
            metrics = Metrics(self._services.proxy, self._moves, self._services.version)
            self._http = HttpServer(config.http, metrics, self._not_ready)
        self._notifier = Notifier.from_environment()
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._mode = ShutdownMode.WAIT_FOR_CLIENTS
        self._reload_lock = asyncio.Lock()

    # -- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find out who serves, then let clients in. Raises CannotServe, OSError (address in use)."""
        general = self._control.config.general
        if self._http is not None:
            await self._http.bind()
        await self._moves.start()
        self._listener = Listener(
            general.host,
            general.port,
            server_tls(general),
            self._frontend.serve,
            ListenerLimits(
                max_connections=general.max_client_conn * 2 + 100,
                first_byte_timeout_s=general.client_login_timeout / 1000.0,
            ),
        )
        await self._listener.start()
        if self._http is not None:
            self._http.start()
        self._tasks.append(asyncio.create_task(sweep_for_ever(self._frontend), name="janitor"))
        self._tasks.append(
            asyncio.create_task(self._services.averages.run(self._services.proxy.stats), name="averages")
        )
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload_by_signal)
        loop.add_signal_handler(signal.SIGTERM, self.shut_down, ShutdownMode.WAIT_FOR_CLIENTS)
        loop.add_signal_handler(signal.SIGINT, self.shut_down, ShutdownMode.WAIT_FOR_SERVERS)
        log.info("listening", host=general.host, port=self._listener.bound_port, pid=os.getpid())
        self._notifier.ready()

    async def run_until_stopped(self) -> None:
        await self._stop.wait()

    def shut_down(self, mode: ShutdownMode) -> None:
        """Ask for the end; a second request ends it at once."""
        self._mode = ShutdownMode.NOW if self._stop.is_set() else mode
        self._stop.set()

    async def stop(self) -> None:
        """No new clients; a run ends first; then clients leave, or are told to, within shutdown_timeout."""
        self._notifier.stopping()
        self._frontend.shutting_down = True
        if self._http is not None:
            await self._http.close()
        if self._listener is not None:
            self._listener.close()
        await self._let_clients_leave()
        await self._end_sessions()
        await self._services.background.finish(60.0)
        await self._moves.close()
        if self._listener is not None:
            await _ended_within(self._listener, ANSWER_TIMEOUT_S)
            self._listener.cancel()
            await _ended_within(self._listener, 5.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        log.info("stopped")

    def _not_ready(self) -> list[str]:
        """Why clients should not be sent here, for /readyz."""
        reasons = [f'it is not known who serves "{name}": {why}' for name, why in self._moves.undecided.items()]
        if self._listener is None or self._stop.is_set():
            reasons.append("clients are not accepted: the daemon starts or stops")
        return reasons

    async def _end_sessions(self) -> None:
        """Tell clients and servers; who does not take his last bytes is cut off."""
        transports: list[asyncio.Transport] = []
        for session in tuple(self._frontend.sessions.values()):
            transports += (session.client_transport, session.link.transport)
            session.refuse(AdminShutdown())
        await self._frontend.cancels_sent(CANCELS_TIMEOUT_S)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LAST_BYTES_TIMEOUT_S
        while any(t.get_write_buffer_size() for t in transports) and loop.time() < deadline:
            await asyncio.sleep(0.02)
        for transport in transports:
            transport.abort()

    async def _let_clients_leave(self) -> None:
        timeout_s = self._control.config.general.shutdown_timeout / 1000.0
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._frontend.sessions and self._mode is not ShutdownMode.NOW and loop.time() < deadline:
            if self._mode is ShutdownMode.WAIT_FOR_SERVERS:
                for session in tuple(self._frontend.sessions.values()):
                    if session.exchange.quiet:
                        session.refuse(AdminShutdown())
            await asyncio.sleep(0.05)

    # -- the console -------------------------------------------------------------------------------------------

    async def _console(self, port: HandshakePort, login: ClientLogin) -> None:
        await serve_console(port, login, self._services)

    # -- configuration -----------------------------------------------------------------------------------------

    def _reload_by_signal(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload_and_log(), name="reload")
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _reload_and_log(self) -> None:
        self._notifier.reloading()
        try:
            for line in await self.reload():
                log.info("reloaded", change=line)
        except ConfigError as error:
            for problem in error.problems:
                log.error("reload_refused", problem=str(problem))
        finally:
            self._notifier.ready()

    async def reload(self) -> Sequence[str]:
        """Both files, all or nothing, never during a run. Raises ConfigError with everything that is wrong."""
        async with self._reload_lock:
            self._refuse_reload_during_a_move()
            running = self._control.config
            loaded = load(self._config_path, self._users_path)
            problems = reloadable(self._control.config, loaded)
            if problems:
                raise ConfigError(problems)
            try:
                loaded, told = await self._moves.oriented(loaded)
                # A run may have begun, or even have come to its end, while the databases were asked.
                self._refuse_reload_during_a_move()
                if self._control.config is not running:
                    raise ConfigError([_problem(self._config_path, "what runs has changed meanwhile; RELOAD again")])
                tls = server_tls(loaded.general)
                changes = difference(self._control.config, loaded)
                self._control.apply(loaded)
                if self._listener is not None:
                    self._listener.tls = tls
                configure_logging(loaded.general.log_level, loaded.general.log_format)
                told += await self._moves.look_again()
            except (CannotServe, ProxyError) as error:
                raise ConfigError([_problem(self._config_path, str(error))]) from error
            return [*told, *(str(change) for change in changes)]

    def _refuse_reload_during_a_move(self) -> None:
        if self._moves.busy:
            raise ConfigError([_problem(self._config_path, "a move is under way; RELOAD when it has ended")])

    async def _set_value(self, key: str, value: object) -> None:
        config = self._control.config
        general = General.model_validate({**config.general.model_dump(), key: value})
        self._control.apply(config.model_copy(update={"general": general}))
        configure_logging(general.log_level, general.log_format)

    async def _save_config(self, source: str, destination: str) -> str:
        """After a swap: the files too, where that is wanted. Never fails a run."""
        result = await asyncio.to_thread(
            save_swapped, self._config_path, self._users_path, source, destination, running=self._control.config
        )
        for warning in result.warnings:
            log.warning("configuration_not_saved" if not result.saved else "configuration_saved", warning=warning)
        if result.saved:
            return "configuration saved: " + ", ".join(result.written)
        return "warning: the configuration files were not changed: " + "; ".join(result.warnings)


async def _ended_within(listener: Listener, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await listener.wait_closed()


def _problem(path: Path, message: str) -> Problem:
    return Problem(str(path), 0, "", message)
