"""Go, or the reasons why not. Pure. What is not known is a reason, never a yes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out just before a run. None means that it could not be found out."""

    blocking: tuple[str, ...]
    subscription_enabled: bool | None
    worker_running: bool | None
    tables_not_ready: int | None
    lag_bytes: int | None
    lag_threshold_bytes: int
    marker_ms: float | None
    marker_limit_ms: float
    sessions_on_destination: int


def not_ready(facts: Facts) -> list[str]:
    """The reasons against a run, the most telling first; empty means go."""
    reasons: list[str] = []
    if facts.subscription_enabled is None:
        reasons.append("the subscription does not exist")
    elif not facts.subscription_enabled:
        reasons.append("the subscription is disabled")
    elif not facts.worker_running:
        reasons.append("the subscription's apply worker is not running; the destination's log says why")
    if facts.tables_not_ready is None:
        reasons.append("the state of the tables is not known")
    elif facts.tables_not_ready:
        reasons.append(f"{facts.tables_not_ready} tables are not in sync yet")
    if facts.lag_bytes is None:
        reasons.append("the replication lag is not known")
    elif facts.lag_bytes > facts.lag_threshold_bytes:
        reasons.append(
            f"the replication lag is {facts.lag_bytes} bytes, above cutover_traffic_stop_threshold "
            f"({facts.lag_threshold_bytes})"
        )
    if facts.marker_ms is None:
        reasons.append("a marker written on the source did not arrive on the destination")
    elif facts.marker_ms > facts.marker_limit_ms:
        reasons.append(
            f"a marker took {facts.marker_ms:.0f} ms to arrive; the pause has room for {facts.marker_limit_ms:.0f} ms"
        )
    if facts.sessions_on_destination:
        reasons.append(
            f"{facts.sessions_on_destination} clients are connected to the destination by its own name; they must leave"
        )
    reasons.extend(facts.blocking)
    return reasons
