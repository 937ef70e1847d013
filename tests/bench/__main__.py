"""Choose parts, measure, print, keep."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from daemon.demo.screen import Screen
from tests import bench

from .parts import PARTS
from .rows import PartResult, rows_table, write_json
from .session import Plan

_DEFAULT_RUNS = {"short": 10, "long": 10, "many": 50}


def main() -> int:
    """Exit status 1 when a write was harmed or a client saw an error; with --strict also for a missed bar."""
    arguments = _parse()
    screen = Screen()
    results = asyncio.run(_measure_all(arguments, screen))
    rows = [row for result in results.values() for row in result.rows]
    screen.console.print(rows_table(rows))
    write_json(arguments.json, results)
    screen.line(f"written to {arguments.json}")
    damage = [line for result in results.values() for line in result.damage]
    for line in damage:
        screen.line(line, "bold red")
    missed = any(row.reached is False for row in rows)
    return 1 if damage or (arguments.strict and missed) else 0


async def _measure_all(arguments: argparse.Namespace, screen: Screen) -> dict[str, PartResult]:
    results: dict[str, PartResult] = {}
    for name in arguments.parts:
        screen.heading(f"part {name}: {PARTS[name].__doc__}")
        plan = Plan(
            clients=arguments.clients,
            tx_per_second=arguments.rate,
            baseline_s=arguments.baseline,
            between_s=arguments.between,
        )
        results[name] = await PARTS[name](replace(plan, runs=arguments.runs or _DEFAULT_RUNS[name]), screen)
    return results


def _parse() -> argparse.Namespace:
    usual = Plan()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=bench.__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--runs", type=int, help=f"runs per part; default: {_DEFAULT_RUNS}")
    parser.add_argument("--clients", type=int, default=usual.clients, help="quick clients")
    parser.add_argument("--rate", type=float, default=usual.tx_per_second, help="transactions per second")
    parser.add_argument("--baseline", type=float, default=usual.baseline_s, help="seconds without a run")
    parser.add_argument("--between", type=float, default=usual.between_s, help="seconds between two runs")
    parser.add_argument("--json", type=Path, default=Path(".bench/cutover.json"), help="where the figures go")
    parser.add_argument("--strict", action="store_true", help="a missed bar is a failure, too")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.parts if name not in PARTS]
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    arguments.parts = arguments.parts or list(PARTS)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
