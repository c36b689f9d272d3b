"""Every ratio that needs neither a model nor a GPU, in one table: `make bench`.

    PYTHONPATH=tests python benchmarks/all.py                       # 1 million nodes, some minutes
    PYTHONPATH=tests python benchmarks/all.py --nodes 10000000

A ratio compares two things measured in one run; the column `limit` names the second. `target` is
what the ratio should reach: `<` at most, `>` at least.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import concurrency
import transport
from simulated_servers import simulate

Row = tuple[str, str, float, str]
"""What is measured, its limit, the ratio, the target."""

HERE = Path(__file__).parent


def _json(script: str, *words: str) -> str:
    command = [sys.executable, str(HERE / script), *words, "--json"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def forests(nodes: int) -> Iterator[Row]:
    for row in json.loads(_json("big_forests.py", "--nodes", str(nodes))):
        name = f"{row['row']} ({row['seconds']} s, {row['peak_mib']} MiB)"
        yield name, row["limit"], row["ratio"], f"< {row['target']}"


def exports(nodes: int) -> Iterator[Row]:
    peers = str(min(nodes, 200_000))
    facts = json.loads(_json("exports.py", "--nodes", str(nodes), "--peer-nodes", peers))
    for way, ratio in facts["ours_against"].items():
        if way == "limit":
            yield f"export {facts['config']}", "read and write of its columns", ratio, "< 2"
        else:
            yield f"export {facts['config']}, rows/s", way.replace("_", " "), ratio, "> 1"


def servers() -> Iterator[Row]:
    for name, (server, requests) in concurrency.SERVERS.items():
        widths = concurrency.WIDTHS
        fixed = (simulate(server, min(requests, 200 * w), width=w).rate for w in widths)
        best = max(zip(fixed, widths, strict=True))[1]
        rate = simulate(server, requests, width=best).rate
        ratio = simulate(server, requests).rate / rate
        yield f"adaptive concurrency, {name}", f"{best} at a time", ratio, "> 0.95"


def client() -> Iterator[Row]:
    if (os.cpu_count() or 1) < 2:
        return  # client and server each need a core
    with transport.server_process() as port:
        rates = {
            level: transport.child(port, level, transport.REQUESTS, False, "aiohttp")
            for level in transport.LEVELS
        }
    first, *others = (row["completions_a_second"] for row in rates.values())
    yield (
        f"HTTP client, slowest of {max(rates)} in flight", f"{min(rates)} in flight",
        min(others) / first, "> 0.85",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1_000_000, help="of the forests")
    nodes = parser.parse_args().nodes
    print(f"{'':46}{'limit':32}{'ratio':>7}  target")
    for rows in (forests(nodes), exports(nodes), servers(), client()):
        for name, limit, ratio, target in rows:
            print(f"{name:46}{limit:32}{ratio:7.2f}  {target}", flush=True)


if __name__ == "__main__":
    main()
