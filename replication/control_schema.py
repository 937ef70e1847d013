"""Install and read the control schema `pgcutover` (the DDL and its functions are sql/control_schema.sql)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib import resources
from uuid import UUID, uuid4

from .session import ControlSession

SCHEMA_VERSION = 1


class ServingState(StrEnum):
    SERVING = "serving"
    DRAINING = "draining"
    MOVED = "moved"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class Identity:
    """The row that says who a database is and whether it serves."""

    uuid: UUID
    state: ServingState
    epoch: int
    run_id: UUID | None
    successor: UUID | None
    move_origin: UUID | None
    move_target: UUID | None
    completed: bool
    fenced: bool
    changed_at: datetime
    """When the state last changed; two readings that agree in it had no fence between them."""


class ForeignIdentity(Exception):
    """The control schema found here belongs to another database: this one is a copy of it."""


async def install(session: ControlSession, state: ServingState) -> Identity:
    """Create the control schema where it is missing and return the identity; an existing row is kept.

    Raises ForeignIdentity where the schema came here inside a physical copy or a dump of another database.
    """
    ddl = resources.files(__package__).joinpath("sql/control_schema.sql").read_text(encoding="utf-8")
    await session.execute(ddl)
    await session.execute(
        """
        INSERT INTO pgcutover.identity (schema_version, uuid, system_identifier, database_oid, state, epoch)
        SELECT $1, $2, c.system_identifier::text, d.oid, $3, 1
        FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()
        ON CONFLICT DO NOTHING
        """,
        SCHEMA_VERSION,
        uuid4(),
        state.value,
    )
    identity = await read_identity(session)
    if identity is None:
        raise AssertionError("the identity row was just written")
    return identity


async def read_identity(session: ControlSession, *, timeout_s: float = 5.0) -> Identity | None:
    """The identity of a database, or None where it was never part of a move.

    Raises ForeignIdentity for a copy, ControlUnavailable when the server cannot be asked.
    """
    present = await session.fetchval("SELECT to_regclass('pgcutover.identity') IS NOT NULL", timeout_s=timeout_s)
    if not present:
        return None
    row = await session.fetchrow(
        """
        SELECT i.*, i.system_identifier = c.system_identifier::text AND i.database_oid = d.oid AS own
        FROM pgcutover.identity i, pg_control_system() c, pg_database d
        WHERE d.datname = current_database()
        """,
        timeout_s=timeout_s,
    )
    if row is None:
        return None
    if not row["own"]:
        raise ForeignIdentity(
            f'"{session.endpoint.name}" carries the control schema of another database: it is a copy of it. '
            "Drop the schema pgcutover there if this copy is to be used on its own."
        )
    return Identity(
        uuid=row["uuid"],
        state=ServingState(row["state"]),
        epoch=row["epoch"],
        run_id=row["run_id"],
        successor=row["successor"],
        move_origin=row["move_origin"],
        move_target=row["move_target"],
        completed=row["completed"],
        fenced=row["fenced"],
        changed_at=row["changed_at"],
    )


async def drop(session: ControlSession) -> None:
    await session.execute("DROP SCHEMA IF EXISTS pgcutover CASCADE")
