"""The HTTP port of [http]: GET /metrics, /healthz and /readyz, in the daemon's own event loop.

It only reads, and asks nobody who they are: whoever may reach the port may see the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from config.model import Http

from .metrics import CONTENT_TYPE, Metrics

log = structlog.get_logger("daemon")

GRACE_S: Final = 2
"""At the end, for responses that are under way."""


class HttpServer:
    """`bind` early, since a port in use is found out there; then `start`; `close` at any time.

    `not_ready` answers why the node is of no use to clients now, a line for each reason; empty where it is ready.
    """

    def __init__(self, http: Http, metrics: Metrics, not_ready: Callable[[], Sequence[str]]) -> None:
        self._http = http
        self._metrics = metrics
        self._server = _Server(_uvicorn_config(_application(metrics, not_ready)))
        self._sockets: list[socket.socket] = []
        self._task: asyncio.Task[None] | None = None

    async def bind(self) -> None:
        """Raises OSError with the section and the address in its text."""
        host, port = self._http.host, self._http.port
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in dict.fromkeys(addresses):
                self._sockets.append(socket.create_server(address, family=family))
        except OSError as error:
            self._close_sockets()
            # create_server() puts the address into strerror; we have said it already.
            reason = (error.strerror or str(error)).partition(" (while")[0]
            raise OSError(error.errno, f"[http]: cannot listen on {host}:{port}: {reason}") from error

    def start(self) -> None:
        """Answer; connections that came since `bind` are answered too."""
        self._task = asyncio.create_task(self._server.serve(self._sockets), name="http")
        self._task.add_done_callback(_tell_failure)
        log.info("http_listening", host=self._http.host, port=self._http.port)

    async def close(self) -> None:
        """Responses under way may end, for GRACE_S; then the port is closed."""
        if self._task is not None and not self._task.done():
            self._server.should_exit = True
            await asyncio.wait({self._task}, timeout=GRACE_S + 1)
            self._task.cancel()
        self._close_sockets()
        await self._metrics.close()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The signals are the daemon's; uvicorn would replace its handlers."""
        yield


def _uvicorn_config(application: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        loop="none",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )


def _application(metrics: Metrics, not_ready: Callable[[], Sequence[str]]) -> Starlette:
    async def show_metrics(_request: Request) -> Response:
        return Response(await metrics.exposition(), headers={"content-type": CONTENT_TYPE})

    async def healthz(_request: Request) -> Response:
        """The event loop got here, and that is all it says."""
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        reasons = list(not_ready())
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)

    return Starlette(
        routes=[Route("/metrics", show_metrics), Route("/healthz", healthz), Route("/readyz", readyz)],
    )


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("http_failed", exc_info=error)
