"""A whole move, forwards and back, between server versions that the ordinary tests do not cover: those of the system
(PostgreSQL 15 in many distributions) beside the embedded ones. `make matrix`."""

from __future__ import annotations

import pytest

from daemon.demo.binaries import BinariesMissing
from daemon.demo.embedded import EmbeddedPostgres
from tests.conftest import HBA, SETTINGS
from tests.support.daemon import Daemon
from tests.support.databases import create_database, make_pair
from tests.support.writers import SCHEMA, Writers

pytestmark = pytest.mark.matrix


@pytest.mark.parametrize(("old", "new"), [(15, 16), (15, 18), (16, 16), (18, 18), (13, 18), (14, 18), (17, 18)])
async def test_there_and_back(tmp_path_factory: pytest.TempPathFactory, old: int, new: int) -> None:
    directory = tmp_path_factory.mktemp(f"from{old}to{new}")
    servers = []
    try:
        for role, major in (("old", old), ("new", new)):
            try:
                server = EmbeddedPostgres(major, directory / role, settings=SETTINGS, hba=HBA, password="matrix")
            except BinariesMissing as error:
                pytest.skip(str(error))
            servers.append(server)
            server.create()
            server.start()
            await create_database(server, "moved")
        pair = make_pair(servers[0], servers[1], "moved")
        await pair.source_sql(SCHEMA)
        async with Daemon(pair, directory / "daemon") as daemon:
            async with Writers(daemon, count=4) as writers:
                await daemon.command("REPLICATE", timeout_s=120)
                for verb in ("CUTOVER", "REVERT", "CUTOVER", "REVERT"):
                    await daemon.command(verb)
                    await writers.flowing()
                    await writers.verify(pair, on_source=verb == "REVERT")
            assert writers.errors == []
            assert writers.lost_connections == 0
        await pair.close_sessions()
    finally:
        for server in servers:
            server.remove()
