"""The two streams of a run: the one that drains, and the one that leads back.

`inbound` flows from the run's source to its destination and is drained in the pause. `outbound` flows the other
way; it is made before the pause, disabled, and enabled after the commit point, so that the way back exists from
the first write on. Which of the two is "forward" depends on where the move began.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from replication import decision, streams
from replication.adoption import adopted_names
from replication.control_schema import Identity
from replication.endpoint import Endpoint
from replication.session import ControlSession
from replication.streams import Direction, StreamHealth, StreamNames, stream_names

SLOT_WAIT_S = 30.0
"""Making the return slot waits for transactions open on the destination; not inside the pause, but not for ever."""

ORIGIN_FILTER_MAJOR = 16
"""From this version on a publisher can leave out what came to it from elsewhere, and a subscriber can ask for that
(origin = none)."""


@dataclass(frozen=True, slots=True)
class RunStreams:
    inbound: StreamNames
    outbound: StreamNames
    source: Endpoint
    destination: Endpoint

    @classmethod
    async def load(
        cls,
        pair_name: str,
        here: Identity,
        source: Endpoint,
        destination: Endpoint,
        subscriber: ControlSession,
    ) -> RunStreams:
        """The streams of a run whose source says `here`; `subscriber` is a session on the destination."""
        inbound = Direction.FORWARD if here.uuid == here.move_origin else Direction.REVERSE
        names = stream_names(pair_name, inbound)
        if inbound is Direction.FORWARD:
            names = await adopted_names(subscriber) or names
        return cls(names, stream_names(pair_name, inbound.opposite), source, destination)

    def intent(self) -> dict[str, Any]:
        """What a restart has to know to undo or finish the run."""
        return {"inbound": asdict(self.inbound), "outbound": asdict(self.outbound)}

    async def inbound_health(self, publisher: ControlSession, subscriber: ControlSession) -> StreamHealth:
        return await streams.stream_health(subscriber, publisher, self.inbound)

    async def make_outbound(self, source: ControlSession, destination: ControlSession) -> str:
        """Publication and slot on the destination, a disabled subscription on the source."""
        await streams.ensure_reverse_stream(source, destination, self.destination, self.outbound, wait_s=SLOT_WAIT_S)
        return f'subscription "{self.outbound.subscription}" on "{source.endpoint.name}", disabled'

    async def skip_what_came(self, destination: ControlSession, source_major: int) -> None:
        """Where one of the two servers cannot filter by origin, the subscriber must not be sent what came from
        itself, so its slot is moved past everything that has been applied so far: once before the pause, so that
        little is left to decode, and at the drain point (under a millisecond).

        A slot cannot be moved beyond what is flushed, and the apply worker commits asynchronously; a commit that
        does flush goes first (PostgreSQL: pg_replication_slot_advance).
        """
        if min(source_major, destination.major) < ORIGIN_FILTER_MAJOR:
            await decision.write_marker(destination, "flush", time.time_ns() // 1000)
            await streams.advance_slot(destination, self.outbound.slot)


def names_from_intent(raw: dict[str, str]) -> StreamNames:
    return StreamNames(raw["publication"], raw["slot"], raw["subscription"])
