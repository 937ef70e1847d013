"""SHOW CLIENTS and SHOW SERVERS: PgBouncer's columns, one row per connection.

`ptr` and `link` name a connection and its other half, as c<id> for a client and s<id> for a link.
"""

from __future__ import annotations

from typing import Final

from proxy.views import ClientView, ServerView

from ..result import Column, Columns, Row, Rows, Type, columns
from ..statement import Context, Statement, command, without_arguments
from .rows import utc_text

SOCKETS: Final[Columns] = (
    *columns(Type.TEXT, "type", "user", "database", "replication", "state", "addr"),
    Column("port", Type.INT4),
    Column("local_addr", Type.TEXT),
    Column("local_port", Type.INT4),
    *columns(Type.TEXT, "connect_time", "request_time"),
    *columns(Type.INT4, "wait", "wait_us", "close_needed"),
    *columns(Type.TEXT, "ptr", "link"),
    Column("remote_pid", Type.INT4),
    *columns(Type.TEXT, "tls", "application_name"),
    *columns(Type.INT4, "prepared_statements", "id"),
)
_MICROSECONDS: Final = 1_000_000


class ShowClients(Statement):
    tag = "SHOW"
    columns = SOCKETS

    async def execute(self, context: Context) -> Rows:
        proxy = context.services.proxy
        links = {link.client_id: link.id for link in proxy.servers() if link.client_id and link.state != "twin"}
        return [_client(view, links.get(view.id)) for view in proxy.clients()]


class ShowServers(Statement):
    tag = "SHOW"
    columns = SOCKETS

    async def execute(self, context: Context) -> Rows:
        return [_server(view) for view in context.services.proxy.servers()]


def _client(view: ClientView, link: int | None) -> Row:
    return _row(
        view,
        type="C",
        replication=view.replication,
        wait=view.wait_us // _MICROSECONDS,
        wait_us=view.wait_us % _MICROSECONDS,
        close_needed=0,
        ptr=f"c{view.id}",
        link="" if link is None else f"s{link}",
    )


def _server(view: ServerView) -> Row:
    return _row(
        view,
        type="S",
        replication="none",
        wait=0,
        wait_us=0,
        close_needed=int(view.close_needed),
        ptr=f"s{view.id}",
        link=f"c{view.client_id}" if view.client_id else "",
    )


def _row(view: ClientView | ServerView, **given: object) -> Row:
    values = {
        "connect_time": utc_text(view.connect_time),
        # A connection that was never asked anything has no time of a request.
        "request_time": utc_text(view.request_time) if view.request_time else None,
        # Nobody counts them: what the session has prepared lives in its server.
        "prepared_statements": None,
        **given,
    }
    return [values[column.name] if column.name in values else getattr(view, column.name) for column in SOCKETS]


COMMANDS: Final = (
    command("SHOW CLIENTS", "connections of applications", without_arguments(ShowClients)),
    command("SHOW SERVERS", "links to servers", without_arguments(ShowServers)),
)
