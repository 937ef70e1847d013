"""A RELOAD that the databases contradict changes nothing, as one that the files contradict."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from replication.control_schema import ServingState, install
from tests.support.daemon import Daemon
from tests.support.databases import Pair


async def test_a_pair_that_cannot_be_served_is_not_taken_in(pair: Pair, tmp_path: Path) -> None:
    """The destination says that it replicates from somewhere, and the source knows of no move."""
    async with Daemon(pair, tmp_path / "daemon") as daemon:
        with_pair = daemon.config_path.read_text()
        without_pair = with_pair[: with_pair.index("[[cutover]]")]
        daemon.config_path.write_text(without_pair)
        await daemon.command("RELOAD")
        connection = await daemon.connect()
        destination = await pair.destination_session()
        await install(destination, ServingState.REPLICA)
        daemon.config_path.write_text(with_pair.replace("[general]", "[general]\nmax_client_conn = 77"))
        for _ in range(2):
            with pytest.raises(asyncpg.PostgresError) as caught:
                await daemon.command("RELOAD")
            assert "is the replica of a move" in caught.value.detail
            assert await daemon.command("SHOW CUTOVER") == []
            assert "77" not in [row["value"] for row in await daemon.command("SHOW CONFIG")]
            assert await connection.fetchval("SELECT 1") == 1
            other = await daemon.connect()
            assert await other.fetchval("SELECT 1") == 1
            await other.close(timeout=5)
        await destination.execute("DROP SCHEMA pgcutover CASCADE")
        await daemon.command("RELOAD")
        assert [row["pair"] for row in await daemon.command("SHOW CUTOVER")] == ["app"]
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close(timeout=5)
        assert "Traceback" not in daemon.log()
