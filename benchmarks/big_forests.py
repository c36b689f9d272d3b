"""What do the commands take on a big forest, beside the bare reading and writing of its columns?

    python benchmarks/big_forests.py                       # 10 million nodes, 6 GB of disk
    python benchmarks/big_forests.py --nodes 1000000 --json
    python benchmarks/big_forests.py --times 10            # reads each part ten times: 100 million

Each row is measured in a process of its own, on a synthetic forest (n = 3, texts of some 600
characters) that was just written, so that it comes from the page cache. The limit of a row is
measured in the same run: reading the same columns with pyarrow, part by part (and writing them as a
build does), or `malt-data --help`, to whose seconds 0.3 are added. The quickest of `--repeats`
counts. Peak memory is the process's. With `--times` each part is there so many times, as hard
links, which take neither disk nor page cache, and only the rows that read whole parts are measured.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.dataset  # noqa: F401 - what pq.read_table would import while it is timed
import pyarrow.parquet as pq
from synthetic_forest import synthetic_forest

from malt_data.forests.forest import Forest, open_forest

COMMAND = [sys.executable, "-m", "malt_data"]
STATS = ["role", "value", "correct", "label", "parent", "question_id", "extra", "reward", "depth"]
STATS += ["node", "prompt_tokens", "completion_tokens", "latency", "finish_reason", "answer"]
STATS += ["verdict"]
Row = tuple[str, Callable[[Forest], None], Callable[[Forest], None], float]


def values(forest: Forest) -> None:
    from malt_data.forests.values import Columns, value_columns

    def of_part(path: Path) -> None:
        value_columns(Columns.of(forest.parts.read(path, Columns.NAMES)), 0.5, "global")

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # as relabel --dry-run does
        list(threads.map(of_part, forest.parts.paths()))


def read_values(forest: Forest) -> None:
    from malt_data.forests.values import Columns

    _read(forest, Columns.NAMES)


def dry_run(forest: Forest) -> None:
    from malt_data.forests.relabel import relabel
    from malt_data.schemas.spec import Labels

    relabel(forest, Labels(threshold=0.6), dry_run=True)


def read_dry_run(forest: Forest) -> None:
    from malt_data.forests.values import Columns

    _read(forest, [*Columns.NAMES, "role", "label"])


def relabel(forest: Forest) -> None:
    from malt_data.forests.relabel import relabel
    from malt_data.schemas.spec import Labels

    with tempfile.TemporaryDirectory(dir=forest.folder.parent) as folder:
        relabel(forest, Labels(threshold=0.6), out=Path(folder) / "copy")


def rewrite(forest: Forest) -> None:
    from malt_data.storage.parquet import write_table

    with tempfile.TemporaryDirectory(dir=forest.folder.parent) as folder:
        for path in forest.parts.paths():
            write_table(Path(folder) / path.name, pq.read_table(path, partitioning=None))


def stats(forest: Forest) -> None:
    from malt_data.forests.facts import stats

    stats(forest)


def read_stats(forest: Forest) -> None:
    _read(forest, STATS)


def show(forest: Forest) -> None:
    _command("show", str(forest.folder), _some_tree(forest))


def explain(forest: Forest) -> None:
    _command("explain", str(forest.folder), f"{_some_tree(forest)}/g0/v1")


def sql(forest: Forest) -> None:
    query = f"SELECT value FROM nodes WHERE node_id = '{_some_tree(forest)}/g0/v1'"
    _command("sql", str(forest.folder), query)


def helped(forest: Forest) -> None:
    _command("--help")
    time.sleep(0.3)


READING = {"values and labels", "relabel --dry-run", "stats"}
ROWS: tuple[Row, ...] = (
    ("values and labels", values, read_values, 1.5),
    ("relabel --dry-run", dry_run, read_dry_run, 3.0),
    ("relabel --out", relabel, rewrite, 1.3),
    ("stats", stats, read_stats, 3.0),
    ("show ID", show, helped, 1.0),
    ("explain ID", explain, helped, 1.0),
    ("sql by id", sql, helped, 1.0),
)


def repeat_parts(forest: Forest, times: int) -> None:
    for path in forest.parts.paths():
        for time_ in range(1, times):
            path.with_name(f"{path.stem}-{time_}.parquet").hardlink_to(path)


def _read(forest: Forest, columns: list[str]) -> None:
    for path in forest.parts.paths():
        pq.read_table(path, columns=columns, partitioning=None, read_dictionary=["question_id"])


def _some_tree(forest: Forest) -> str:
    return (forest.folder / "some_tree").read_text()


def _command(*words: str) -> None:
    subprocess.run([*COMMAND, *words], check=True, stdout=subprocess.DEVNULL)


def measure(folder: Path, way: str) -> dict[str, float]:
    """Run one way in this process; return seconds, and its peak memory in MiB."""
    forest = open_forest(folder)
    run = {f"{name} {side}": f for name, *both, _ in ROWS for side, f in enumerate(both)}[way]
    started = time.perf_counter()
    run(forest)
    seconds = time.perf_counter() - started
    scopes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(scope).ru_maxrss for scope in scopes) / 1024
    return {"seconds": round(seconds, 3), "peak": round(peak)}


def best(folder: Path, way: str, repeats: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--forest", str(folder), "--way", way]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]
    return min(runs, key=lambda run: run["seconds"])


def rows(folder: Path, repeats: int, names: set[str]) -> list[dict[str, Any]]:
    """Return a row per command: its seconds, those of its limit, their ratio, the target."""
    found = []
    for name, _, limit, target in ROWS:
        if name not in names:
            continue
        ours, least = best(folder, f"{name} 0", repeats), best(folder, f"{name} 1", repeats)
        ratio = round(ours["seconds"] / least["seconds"], 2)
        what = limit.__name__.replace("helped", "help_and_0.3_s").replace("_", " ")
        found.append(
            {"row": name, "seconds": ours["seconds"], "limit": what, "of": least["seconds"],
             "ratio": ratio, "target": target, "peak_mib": ours["peak"]}
        )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--times", type=int, default=1, help="read each part so many times")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--forest", type=Path, help="one that is there already")
    parser.add_argument("--way", help="measure it in this process")
    parser.add_argument("--make", type=int, metavar="NODES", help="make --forest in this process")
    options = parser.parse_args()
    if options.make:
        synthetic_forest(options.forest, options.make)
        return
    if options.way:
        print(json.dumps(measure(options.forest, options.way)))
        return
    folder = options.forest or Path(tempfile.mkdtemp(prefix="malt-big-")) / "forest"
    os.environ.setdefault("MALT_CACHE", tempfile.mkdtemp(prefix="malt-cache-"))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled once
    try:
        if not options.forest:  # apart, as a child's peak memory starts with its parent's
            command = [sys.executable, __file__, "--forest", str(folder)]
            subprocess.run([*command, "--make", str(options.nodes)], check=True)
        forest = open_forest(folder)
        (folder / "some_tree").write_text(forest.parts.trees_in(forest.parts.paths()[0])[7])
        repeat_parts(forest, options.times)
        names = READING if options.times > 1 else {name for name, *_ in ROWS}
        found = rows(folder, options.repeats, names)
    finally:
        if not options.forest:
            shutil.rmtree(folder.parent)
    if options.json:
        print(json.dumps(found))
        return
    head = ("", "seconds", "limit", "seconds", "ratio", "target", "MiB")
    print("{:18}{:>9} {:18}{:>9}{:>7}{:>8}{:>7}".format(*head))
    for row in found:
        print("{:18}{:>9} {:18}{:>9}{:>7}{:>8}{:>7}".format(*row.values()))


if __name__ == "__main__":
    main()
