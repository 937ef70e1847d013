"""Which databases a command is about: the named one, or all of them."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.views import DatabaseView

from ..errors import NoSuchDatabase, NotInThatState
from ..statement import Context


def targets(context: Context, name: str | None) -> Sequence[DatabaseView]:
    """Raises NoSuchDatabase, and NotInThatState for the admin database, which is always there."""
    found = context.services.proxy.databases()
    if name is None:
        return found
    if name == context.services.config().admin.name:
        raise NotInThatState(f'"{name}" is the admin database; this command is for the others')
    chosen = [view for view in found if view.name == name]
    if not chosen:
        raise NoSuchDatabase(name)
    return chosen
