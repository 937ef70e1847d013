"""From an accepted socket to a session: log the client in, open its link, put the two together.

The order matters for P2: a link is opened first and the decision record is read after that (`link_check`), so a
link that slipped in while a fence went up is found by the reading, and one opened before it by the fence.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from config.model import Config, User

from ..errors import (
    AdminShutdown,
    CannotConnectNow,
    PeerClosed,
    ProxyError,
    QueryWaitTimeout,
    TooManyConnections,
    UnknownDatabase,
)
from ..wire import messages
from ..wire.scram import ScramKeys
from .cancel import send_cancel
from .client_login import CancelTarget, ClientLogin, accept_client
from .credentials import login_settings
from .link import Link
from .link_login import LinkTarget, open_link
from .port import HandshakePort
from .route import Route, link_target
from .session import ClientSide, Session

log = structlog.get_logger("proxy")

LinkCheck = Callable[[str, object], Awaitable[bool]]
"""Called after a link was opened, with the database name and what `link_token` said before. True: that side serves,
and did so all the time. False: this link is of no use, open another one. Raises ProxyError for a side that is not to
be written to."""

Console = Callable[[HandshakePort, ClientLogin], Awaitable[None]]

CANCEL_TIMEOUT_S = 10.0
ORPHAN_PATIENCE_S = (0.3, 1.0, 3.0, 10.0, 20.0)
CHECK_AGAIN_S = 0.02


async def no_check(_database: str, _token: object) -> bool:
    """For databases that are in no pair."""
    return True


class Frontend:
    """All routes, sessions and links of this process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.login_settings = login_settings(config, self._refusal)
        self.routes: dict[str, Route] = {d.name: Route(config, d) for d in config.databases}
        self.sessions: dict[int, Session] = {}
        self.cancel_keys: dict[tuple[int, bytes], Session] = {}
        self.link_check: LinkCheck = no_check
        self.link_token: Callable[[str], object] = lambda _database: None
        self.console: Console | None = None
        self.console_cancel: Callable[[int, bytes], object] | None = None
        self.shutting_down = False
        self.logging_in = 0
        self._arriving = 0  # clients that are logged in and have no link yet
        self._ids = itertools.count(1)
        self._link_ids = itertools.count(1)
        self._notices: set[asyncio.Task[None]] = set()
        self._cancels: set[asyncio.Task[Any]] = set()

    # -- the way in ------------------------------------------------------------------------------------------

    async def serve(self, port: HandshakePort) -> None:
        """One accepted connection, until its client is logged in or turned away."""
        self.logging_in += 1
        try:
            login = await accept_client(port, self.login_settings)
            if isinstance(login, CancelTarget):
                await self.cancel(login)
            elif login.database == self.config.admin.name and self.console is not None:
                await self.console(port, login)
            else:
                await self._begin(port, login)
        except PeerClosed:
            return
        except ProxyError as error:
            getattr(log, error.log_level, log.warning)(
                "client_refused", sqlstate=error.sqlstate, reason=error.message, detail=error.log_detail
            )
        finally:
            self.logging_in -= 1

    async def _begin(self, port: HandshakePort, login: ClientLogin) -> None:
        try:
            self._check_room()  # again: others may have logged in at the same time
            self._arriving += 1
            try:
                route = self._route(login)
                link = await self._open_for_client(port, route, login)
            finally:
                self._arriving -= 1
        except ProxyError as error:
            raw = getattr(error, "raw_error", None)
            port.write(raw if isinstance(raw, bytes) and raw else messages.error_bytes(error))
            raise
        except asyncio.CancelledError:
            port.write(messages.error_bytes(AdminShutdown()))
            raise
        # No await between the check of the link and this: a run that waits for `logging_in` to be zero must
        # find every link either not there at all or among the sessions.
        try:
            self._attach(port, route, login, link)
        finally:
            self._login_over(route)

    def _refusal(self, _user: str, database: str) -> ProxyError | None:
        """Asked before authentication: the operator gets in when applications do not."""
        if database == self.config.admin.name:
            return None
        try:
            self._check_room()
        except ProxyError as error:
            return error
        return None

    def _check_room(self) -> None:
        if self.shutting_down:
            raise _shutting_down()
        if len(self.sessions) + self._arriving >= self.config.general.max_client_conn:
            raise TooManyConnections()

    def _route(self, login: ClientLogin) -> Route:
        route = self.routes.get(login.database)
        if route is None:
            raise UnknownDatabase(login.database)
        if route.disabled:
            raise CannotConnectNow(f'database "{route.name}" is disabled')
        return route

    async def _open_for_client(self, port: HandshakePort, route: Route, login: ClientLogin) -> Link:
        """Wait for a place and for the logins of this route to be open; then open and check the link."""
        began = time.monotonic()
        route.waiting[port] = login.user, began
        try:
            return await self._wait_for_link(port, route, login, began)
        finally:
            del route.waiting[port]

    async def _wait_for_link(self, port: HandshakePort, route: Route, login: ClientLogin, began: float) -> Link:
        wait_s = self.config.general.query_wait_timeout / 1000.0
        while True:
            await self._wait_or_gone(port, route, self._may_login(route), wait_s, began)
            if self.routes.get(route.name) is not route:
                raise UnknownDatabase(login.database)
            if not route.logins_open.is_set() or self._full(route):
                continue
            link = await self._open_checked(route, login)
            if link is not None and self.shutting_down:
                link.close()
                self._login_over(route)
                raise _shutting_down()
            if link is not None:
                return link
            await self._wait_or_gone(port, route, asyncio.sleep(CHECK_AGAIN_S), wait_s, began)

    async def _open_checked(self, route: Route, login: ClientLogin) -> Link | None:
        """Open first, then read who serves. None: the side was being fenced, so this link is of no use.

        With a link returned the route still counts one login under way; `_login_over` ends it.
        """
        route.logging_in += 1
        link: Link | None = None
        try:
            token = self.link_token(route.name)
            link = await self.open_link(route, login)
            link.awaited = True
            if await self.link_check(route.name, token) and not link.lost:
                return link
        except BaseException:
            if link is not None:
                link.close()
            self._login_over(route)
            raise
        link.close()
        self._login_over(route)
        return None

    def _login_over(self, route: Route) -> None:
        route.logging_in -= 1
        self._given_back(route)

    def _given_back(self, route: Route) -> None:
        task = asyncio.get_running_loop().create_task(_notify(route), name="link-given-back")
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    @staticmethod
    def _full(route: Route) -> bool:
        return bool(route.pool_size) and len(route.sessions) + route.logging_in >= route.pool_size

    async def _may_login(self, route: Route) -> None:
        await route.logins_open.wait()
        async with route.link_given_back:
            await route.link_given_back.wait_for(lambda: not self._full(route) or not route.logins_open.is_set())

    @staticmethod
    async def _wait_or_gone(port: HandshakePort, route: Route, ready: Any, wait_s: float, began: float) -> None:
        """Wait for `ready`, but no longer than the client itself does. Raises PeerClosed, QueryWaitTimeout."""
        left = wait_s - (time.monotonic() - began) if wait_s else None
        waiting = asyncio.ensure_future(ready)
        gone = asyncio.ensure_future(port.lost.wait())
        try:
            done, _ = await asyncio.wait({waiting, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if gone in done:
                raise PeerClosed()
            if waiting not in done:
                raise QueryWaitTimeout(route.name, wait_s)
            waiting.result()
        finally:
            for task in (waiting, gone):
                task.cancel()

    async def open_link(
        self, route: Route, login: ClientLogin, *, user: User | None = None, extra: dict[str, str] | None = None
    ) -> Link:
        """A logged-in link with the client's own start-up packet. Raises LinkRefused or LinkUnreachable."""
        entry = user or self.config.user(login.user, route.name)
        if entry is None:
            raise UnknownDatabase(route.name)
        target = route.target
        startup = login.startup
        if extra:
            told = {key: value for key, value in extra.items() if startup.get(key) is None}
            startup = startup.with_changes(extra=told)
        secret = entry.server_password or entry.password
        password: str | ScramKeys | None = secret.get_secret_value() if secret is not None else None
        if entry.server_password is None and login.scram_keys is not None and _is_verifier(password):
            # Only the client knows the password; its proof has given us the keys that a server with the very same
            # verifier accepts as well.
            password = login.scram_keys
        opened = await open_link(
            target,
            startup,
            entry.login_user,
            password,
            self.config.general.connect_timeout / 1000.0,
        )
        return Link(next(self._link_ids), target, opened)

    def _attach(self, port: HandshakePort, route: Route, login: ClientLogin, link: Link) -> None:
        transport, leftover = port.detach()
        session = Session(next(self._ids), login, route, transport, link, self._session_ended)
        self.sessions[session.id] = session
        self.cancel_keys[link.backend_pid, link.cancel_key] = session
        route.sessions.add(session)
        route.login_count += 1
        if route.gate.owners:
            session.stop()
        transport.write(link.greeting)
        side = ClientSide(session)
        transport.set_protocol(side)
        transport.resume_reading()
        if session.ended or transport.is_closing():
            session.client_gone()
            return
        link.awaited = False
        if link.opened_leftover:
            link.data_received(link.opened_leftover)
            link.opened_leftover = b""
        if leftover:
            side.data_received(leftover)

    def _session_ended(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        self.cancel_keys.pop(session.key, None)
        session.route.forget(session)
        self._given_back(session.route)
        if session.exchange.working and not session.link.lost:
            task = asyncio.get_running_loop().create_task(_cancel_orphan(session.link), name="cancel-orphan")
            self._cancels.add(task)
            task.add_done_callback(self._cancels.discard)

    async def cancels_sent(self, timeout_s: float) -> None:
        """Until the servers have left every request that nobody waits for."""
        if self._cancels:
            await asyncio.wait(tuple(self._cancels), timeout=timeout_s)

    # -- cancel ----------------------------------------------------------------------------------------------

    async def cancel(self, target: CancelTarget) -> None:
        """A client asks to cancel what it has running: drop it here if it is held, else pass it on."""
        session = self.cancel_keys.get((target.pid, target.key))
        if session is None:
            if self.console_cancel is not None:
                self.console_cancel(target.pid, target.key)
            return
        if session.cancel_held():
            return
        link = session.link
        if link.lost or session.exchange.quiet:
            return
        await send_cancel(link.target, link.backend_pid, link.cancel_key, CANCEL_TIMEOUT_S)

    # -- configuration ---------------------------------------------------------------------------------------

    def apply(self, config: Config) -> None:
        """Take over a new configuration: routes that went away end their sessions, changed ones keep them."""
        self.config = config
        self.login_settings = login_settings(config, self._refusal)
        wanted = {d.name: d for d in config.databases}
        for name in self.routes.keys() - wanted.keys():
            for session in tuple(self.routes[name].sessions):
                session.refuse(AdminShutdown(detail=f'database "{name}" was removed from the configuration'))
            del self.routes[name]
        for name, database in wanted.items():
            route = self.routes.get(name)
            if route is None:
                self.routes[name] = Route(config, database)
                continue
            route.target = link_target(database)
            route.pool_size = config.pool_size(database)
            self._given_back(route)  # there may be more room than before

    def target_of(self, name: str) -> LinkTarget:
        return self.routes[name].target


async def _cancel_orphan(link: Link) -> None:
    """Nobody waits any more for what this backend is doing, and it would notice that only at its end.

    Again and again, since a backend ignores a request to cancel what it has not begun to read (ProcessInterrupts in
    tcop/postgres.c). A client that sends Terminate behind its last request wants that done, and is not meant here.
    """
    try:
        for patience_s in ORPHAN_PATIENCE_S:
            await send_cancel(link.target, link.backend_pid, link.cancel_key, CANCEL_TIMEOUT_S)
            if await link.left(patience_s):
                return
    finally:
        link.abort()


def _shutting_down() -> CannotConnectNow:
    return CannotConnectNow("the database system is shutting down")


def _is_verifier(password: str | ScramKeys | None) -> bool:
    return isinstance(password, str) and password.startswith("SCRAM-SHA-256$")


async def _notify(route: Route) -> None:
    async with route.link_given_back:
        route.link_given_back.notify_all()
