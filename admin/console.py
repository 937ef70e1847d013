"""One admin session on a real connection: drives `ConsoleProtocol`, runs its statements, tells the operator.

A statement runs in a task of its own. Three things can end it early, and each cancels that task: a cancel
request, the client's going away, and the end of the daemon. What a cancelled statement does with that is its
own affair: a PAUSE undoes itself, a verb of a move goes on without its console (background.py).
"""

from __future__ import annotations

import asyncio
from typing import assert_never

import structlog

from config.problems import ConfigError
from cutover.api import MoveError
from proxy.errors import AdminShutdown, InternalError, PeerClosed, ProxyError
from proxy.wire import messages

from .errors import BadConfiguration, Canceled, Internal, VerbFailed
from .inbox import Inbox
from .protocol import ConsoleProtocol, Outcome, Run, Send, Steps
from .result import Rows
from .services import ConsoleServices, Login, Port
from .session import ConsoleSession
from .settings import SERVER_VERSION_NUMBER, SessionSettings
from .statement import Context, Statement

log = structlog.get_logger("admin")


async def serve_console(port: Port, login: Login, services: ConsoleServices) -> None:
    """Serve an admin session until its client leaves. AuthenticationOk has been sent; the port is closed at
    the end.

    Raises nothing but CancelledError: the daemon ends a session by cancelling it, and its client is told so.
    """
    await _Console(port, login, services).run()


class _Console:
    def __init__(self, port: Port, login: Login, services: ConsoleServices) -> None:
        self._port = port
        self._services = services
        self._statement: asyncio.Task[Rows] | None = None
        self._key = services.cancels.register(login.startup.protocol, self._stop_statement)
        self._protocol = ConsoleProtocol(_session(login, services, self._key.pid))
        self._inbox = Inbox(port, self._stop_statement)
        self._log = log.bind(user=login.user, session=self._key.pid)

    async def run(self) -> None:
        self._log.info("console opened")
        try:
            self._port.write(self._protocol.greeting(self._key.key))
            while not self._protocol.ended:
                kind, body = await self._inbox.next()
                await self._drive(self._protocol.handle(kind, body))
        except PeerClosed:
            pass
        except ProxyError as error:
            self._port.write(messages.error_bytes(error))
            self._log.log(error.log_level, "console ended", sqlstate=error.sqlstate, reason=error.message)
        except asyncio.CancelledError:
            self._port.write(messages.error_bytes(AdminShutdown()))
            raise
        except Exception:
            self._port.write(messages.error_bytes(InternalError()))
            self._log.exception("console ended by a fault")
        finally:
            self._services.cancels.unregister(self._key)
            self._port.close()
            await self._inbox.close()
            self._log.info("console closed")

    async def _drive(self, steps: Steps) -> None:
        outcome: Outcome | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration:
                return
            match step:
                case Run(statement):
                    outcome = await self._run(statement)
                case Send(data):
                    self._port.write(data)
                    await self._port.drain()
                    outcome = None
                case _:
                    assert_never(step)

    async def _run(self, statement: Statement) -> Outcome:
        telling = _Telling(self._port)
        context = Context(self._services, self._protocol.session, telling)
        task = asyncio.get_running_loop().create_task(statement.execute(context), name=f"console-{statement.tag}")
        self._statement = task
        if self._inbox.gone:
            task.cancel()
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait((task,))
            raise
        finally:
            self._statement = None
            telling.over = True
        if statement.changes:
            self._log.info(
                "command", command=statement.completion(0), done=not task.cancelled() and not task.exception()
            )
        if task.cancelled():
            return Outcome(error=_canceled(statement))
        error = task.exception()
        return Outcome(task.result()) if error is None else Outcome(error=self._answer(error))

    def _stop_statement(self) -> None:
        if self._statement is not None:
            self._statement.cancel()

    def _answer(self, error: BaseException) -> ProxyError:
        """What the operator is told of an exception."""
        if isinstance(error, ProxyError):
            return error
        if isinstance(error, MoveError):
            return VerbFailed(error.sqlstate, error.message, detail=error.detail, hint=error.hint)
        if isinstance(error, ConfigError):
            return BadConfiguration(
                f"the configuration was not applied: {len(error.problems)} problems",
                detail="\n".join(map(str, error.problems)),
                hint="Nothing has changed; mend them and RELOAD again.",
            )
        self._log.error("command failed by a fault", exc_info=error)
        return Internal()


class _Telling:
    """Sends notices while its statement runs; a verb that goes on without its console speaks to nobody."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self.over = False

    def __call__(self, text: str, *, severity: str = "NOTICE", sqlstate: str = "00000") -> None:
        if not self.over:
            self._port.write(messages.notice_response(text, severity=severity, sqlstate=sqlstate))


def _session(login: Login, services: ConsoleServices, pid: int) -> ConsoleSession:
    startup = {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in login.startup.parameters
    }
    fixed = {
        "server_version": f"{SERVER_VERSION_NUMBER} (pgcutover {services.version})",
        "session_authorization": login.user,
    }
    return ConsoleSession(login.user, login.database, pid, SessionSettings(fixed, startup))


def _canceled(statement: Statement) -> Canceled:
    if not statement.goes_on:
        return Canceled()
    return Canceled(
        detail=f"{statement.tag} itself goes on; only this console has stopped waiting for it.",
        hint="SHOW CUTOVER and SHOW REPLICATION show where it stands.",
    )
