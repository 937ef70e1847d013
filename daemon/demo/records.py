"""What one client of the workload knows about its own transactions, and how processes hand it on."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Outcome(StrEnum):
    """What the client knows about the write number n; `outcomes[n - 1]` holds the letter."""

    ACKNOWLEDGED = "a"
    REFUSED = "r"  # an error that says it was not done
    UNKNOWN = "u"  # the connection died between COMMIT and its answer


@dataclass(frozen=True, slots=True)
class ClientError:
    """An error that the application behind this client would have seen."""

    at_s: float  # time.monotonic() of the machine, the same clock in every process
    n: int
    sqlstate: str
    text: str
    doing: str


@dataclass(slots=True)
class ClientRecord:
    """Everything one client saw. `starts_s` and `latencies_ms` have one value per finished transaction."""

    client: int
    driver: str
    slow: bool = False
    outcomes: list[str] = field(default_factory=list)
    errors: list[ClientError] = field(default_factory=list)
    starts_s: array[float] = field(default_factory=lambda: array("d"))
    latencies_ms: array[float] = field(default_factory=lambda: array("d"))
    connects: int = 0
    server_versions: list[int] = field(default_factory=list)  # in the order first seen

    def count(self, outcome: Outcome) -> int:
        return self.outcomes.count(outcome.value)

    def saw_version(self, number: int) -> None:
        if number not in self.server_versions:
            self.server_versions.append(number)


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished transaction."""

    start_s: float
    latency_ms: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.latency_ms / 1000


def samples(records: Sequence[ClientRecord], *, slow: bool | None = None) -> list[Sample]:
    """All finished transactions in the order they began; of the quick or the slow clients, or of both."""
    chosen = [record for record in records if slow is None or record.slow is slow]
    found = [
        Sample(start, latency)
        for record in chosen
        for start, latency in zip(record.starts_s, record.latencies_ms, strict=True)
    ]
    return sorted(found, key=lambda sample: sample.start_s)


def write_records(path: Path, records: Sequence[ClientRecord]) -> None:
    path.write_text(json.dumps([_to_json(record) for record in records]))


def read_records(path: Path) -> list[ClientRecord]:
    return [_from_json(entry) for entry in json.loads(path.read_text())]


def _to_json(record: ClientRecord) -> dict[str, Any]:
    return {
        "client": record.client,
        "driver": record.driver,
        "slow": record.slow,
        "outcomes": "".join(record.outcomes),
        "errors": [[e.at_s, e.n, e.sqlstate, e.text, e.doing] for e in record.errors],
        "starts_s": [round(value, 6) for value in record.starts_s],
        "latencies_ms": [round(value, 3) for value in record.latencies_ms],
        "connects": record.connects,
        "server_versions": record.server_versions,
    }


def _from_json(entry: dict[str, Any]) -> ClientRecord:
    return ClientRecord(
        client=entry["client"],
        driver=entry["driver"],
        slow=entry["slow"],
        outcomes=list(entry["outcomes"]),
        errors=[ClientError(*values) for values in entry["errors"]],
        starts_s=array("d", entry["starts_s"]),
        latencies_ms=array("d", entry["latencies_ms"]),
        connects=entry["connects"],
        server_versions=entry["server_versions"],
    )
