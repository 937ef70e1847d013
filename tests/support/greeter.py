"""A listener whose handler lets clients in and then greets them: the log-in without a proxy behind it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from proxy.errors import ProxyError
from proxy.net.client_login import CancelTarget, ClientLogin, LoginSettings, accept_client
from proxy.net.listener import Listener, ListenerLimits
from proxy.net.port import HandshakePort
from proxy.wire import messages
from proxy.wire.codes import ClientMessage

PARAMETERS = {
    "server_version": "18.4",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
}
COLUMNS = ("user", "database", "tls", "replication", "application_name")
END_DEADLINE_S = 5.0


class Greeter:
    """`logins`, `errors` and `cancels` keep what happened, in order. A query is answered with the login."""

    host = "127.0.0.1"

    def __init__(
        self,
        settings: LoginSettings,
        *,
        limits: ListenerLimits | None = None,
        unix_folder: str | None = None,
    ) -> None:
        self.settings = settings
        self.logins: list[ClientLogin] = []
        self.errors: list[ProxyError] = []
        self.cancels: list[CancelTarget] = []
        self.listener = Listener(self.host, 0, settings.tls, self._serve, limits, unix_folder=unix_folder)

    @property
    def port(self) -> int:
        return self.listener.bound_port

    async def __aenter__(self) -> Self:
        await self.listener.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listener.close()
        self.listener.cancel()
        async with asyncio.timeout(END_DEADLINE_S):
            await self.listener.wait_closed()

    async def _serve(self, port: HandshakePort) -> None:
        try:
            login = await accept_client(port, self.settings)
        except ProxyError as error:
            self.errors.append(error)
            raise
        if isinstance(login, CancelTarget):
            self.cancels.append(login)
            return
        self.logins.append(login)
        port.write(_greeting())
        while True:
            kind, _ = await port.read_message(1024 * 1024)
            if kind == ClientMessage.TERMINATE:
                return
            if kind == ClientMessage.QUERY:
                port.write(_row(login))
                await port.drain()


def _greeting() -> bytes:
    return (
        b"".join(messages.parameter_status(name, value) for name, value in PARAMETERS.items())
        + messages.backend_key_data(4711, b"key!")
        + messages.ready_for_query()
    )


def _row(login: ClientLogin) -> bytes:
    values = [login.user, login.database, login.tls, login.replication, login.application_name]
    return (
        messages.row_description(COLUMNS)
        + messages.data_row(values)
        + messages.command_complete("SELECT 1")
        + messages.ready_for_query()
    )
