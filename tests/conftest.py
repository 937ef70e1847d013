"""Fixtures that several test modules share: two running servers and a fresh pair of databases."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from daemon.demo.embedded import EmbeddedPostgres
from tests.support.databases import Pair, create_database, drop_databases, make_pair

SUPERUSER_PASSWORD = "super-secret"

# The superuser needs no password; other roles log in by the method their name starts with, else by SCRAM.
HBA = r"""
local all         all          trust
host  all         postgres     127.0.0.1/32 trust
host  all         /^trust_     127.0.0.1/32 trust
host  all         /^plain_     127.0.0.1/32 password
host  all         /^md5_       127.0.0.1/32 md5
host  all         all          127.0.0.1/32 scram-sha-256
host  replication postgres     127.0.0.1/32 trust
host  replication all          127.0.0.1/32 scram-sha-256
"""

SETTINGS = {
    "wal_level": "logical",
    "max_connections": "200",
    "fsync": "off",
    "shared_buffers": "64MB",
    "max_replication_slots": "60",
    "max_wal_senders": "60",
    "max_logical_replication_workers": "40",
    "max_worker_processes": "60",
    "max_sync_workers_per_subscription": "4",
    # After an error an apply worker starts again this late; the default of 5 s only makes tests slow.
    "wal_retrieve_retry_interval": "200ms",
    "log_min_messages": "info",
}

# Before 18 max_replication_slots limits the replication origins too (release notes of PostgreSQL 18).
SETTINGS_18 = {"max_active_replication_origins": "60"}

_numbers = itertools.count(1)


def _server(major: int) -> Iterator[EmbeddedPostgres]:
    """Not below pytest's own folder: another pytest that starts meanwhile shuts other accounts out of that one, and
    may even remove the folders of earlier ones."""
    settings = {**SETTINGS, **(SETTINGS_18 if major >= 18 else {})}
    directory = Path(tempfile.mkdtemp(prefix=f"pgcutover-pg{major}-"))
    server = EmbeddedPostgres(major, directory, settings=settings, hba=HBA, password=SUPERUSER_PASSWORD)
    server.create()
    server.start()
    try:
        yield server
    finally:
        server.remove()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def pg16() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL 16, shared by the whole session. A test that hurts it must start it again."""
    yield from _server(16)


@pytest.fixture(scope="session")
def pg18() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL 18, shared by the whole session. A test that hurts it must start it again."""
    yield from _server(18)


@pytest.fixture
async def pair(pg16: EmbeddedPostgres, pg18: EmbeddedPostgres) -> AsyncIterator[Pair]:
    """Fresh databases of one name on 16 (source) and 18 (destination)."""
    database = f"t{os.getpid()}_{next(_numbers)}"
    fresh = make_pair(pg16, pg18, database)
    for server in (pg16, pg18):
        await create_database(server, database)
    try:
        yield fresh
    finally:
        await fresh.close_sessions()
        await drop_databases((pg16, pg18), database)
