"""Cancel requests to servers: a connection of their own, one packet, no answer."""

from __future__ import annotations

import asyncio

import structlog

from ..errors import PeerClosed, ProxyError
from ..wire import messages
from .link_connect import LinkTarget, LinkUnreachable, connect
from .port import HandshakePort

log = structlog.get_logger(__name__)


async def send_cancel(target: LinkTarget, pid: int, key: bytes, timeout_s: float) -> bool:
    """Ask the server to cancel what backend `pid` is doing; True where the server has taken the request.

    Like PQcancelBlocking of libpq 17: under TLS where the link would be, then wait until the server hangs up,
    for only then has it sent the signal. Never raises but for cancellation; `timeout_s` covers all of it.
    """
    try:
        async with asyncio.timeout(timeout_s or None):
            port = await _connect(target)
            try:
                port.write(messages.cancel_request(pid, key))
                await port.read_byte()
            except PeerClosed:
                return True
            finally:
                port.abort()
    except (TimeoutError, ProxyError, OSError) as error:
        log.warning("cancel_not_delivered", database=target.name, pid=pid, reason=str(error) or "time-out")
        return False
    return False  # a server never answers a cancel request; whatever this was, it was not one


async def _connect(target: LinkTarget) -> HandshakePort:
    """pg_hba.conf does not apply to cancel requests, so nothing but TLS itself is a reason to try again."""
    *first_attempts, last = target.encrypted_attempts
    for encrypted in first_attempts:
        try:
            return await connect(target, encrypted)
        except LinkUnreachable:
            continue
    return await connect(target, last)
