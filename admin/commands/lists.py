"""SHOW LISTS: how many there are of everything, in PgBouncer's rows.

Nothing is resolved or kept for later here, so the rows of free objects and of DNS are 0.
"""

from __future__ import annotations

from typing import Final

from ..result import Column, Columns, Rows, Type
from ..statement import Context, Statement, command, without_arguments

LISTS: Final[Columns] = (Column("list", Type.TEXT), Column("items", Type.INT4))


class ShowLists(Statement):
    tag = "SHOW"
    columns = LISTS

    async def execute(self, context: Context) -> Rows:
        proxy = context.services.proxy
        clients = proxy.clients()
        logging_in = sum(view.state == "login" for view in clients)
        return [
            ("databases", len(proxy.databases())),
            ("users", len({user.name for user in context.services.config().users})),
            ("peers", 0),
            ("pools", len(proxy.pools())),
            ("peer_pools", 0),
            ("free_clients", 0),
            ("used_clients", len(clients) - logging_in),
            ("login_clients", logging_in),
            ("free_servers", 0),
            ("used_servers", len(proxy.servers())),
            ("dns_names", 0),
            ("dns_zones", 0),
            ("dns_queries", 0),
            ("dns_pending", 0),
        ]


COMMANDS: Final = (command("SHOW LISTS", "how many there are of everything", without_arguments(ShowLists)),)
