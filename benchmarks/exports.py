"""How fast is an export, beside the usual ways with `datasets` and the bare reading and writing?

    python benchmarks/exports.py                       # 10 million nodes; peers on 1 million
    python benchmarks/exports.py --nodes 200000 --json

All ways make the same rows of a synthetic forest (n = 3) in one split; a digest over every row
must agree before anything is printed. Each way runs in a fresh process, with a fresh Hugging Face
cache, after its imports; the nodes were just written, so they come from the page cache.

- ours: `malt_data.exporters.export.export`, to Parquet shards with zstd level 3.
- from_generator: `Dataset.from_generator` over the rows of the loaded nodes, one by one, the way
  that needs no thought; then `to_parquet`.
- from_lists: the same over plain lists that pyarrow reads part by part: as good as it gets.
- map: `load_dataset("parquet")` of the nodes, batched `map` of 25 whole trees, then `to_parquet`.
  All three share one row-making function on plain lists; `to_parquet` compresses with snappy,
  cheaper than zstd. Seconds are from the call to the written file, preparing the Arrow cache
  included. `--processes` gives the last two that many workers.
- the limit: decode the columns that an export needs of all nodes once with pyarrow
  (`rows.COLUMNS`), then write the very tables that ours exported once more, row group by row
  group, with the same writer. Reading those tables back is outside the clock; nothing is joined,
  grouped or rendered. Read and write follow one another, while ours overlaps them where a second
  core is free: compare the processor seconds (user + system, of children too) as well.

Peak memory is the `ru_maxrss` of the process (with workers, of the largest) and counts pages of
memory-mapped files: the peers' Arrow cache. Peers are slow, so they run on `--peer-nodes`; their
rows a second are set against those of ours on `--nodes`. With `--repeats` the ways take turns and
the quickest run of each counts, on a machine that others use too.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from synthetic_forest import NODES_A_TREE, synthetic_forest

from malt_data.exporters.export import export
from malt_data.exporters.rows import COLUMNS
from malt_data.exporters.selection import Selection
from malt_data.exporters.shards import Shards
from malt_data.forests.forest import Forest, open_forest
from malt_data.prompts.templates import render
from malt_data.schemas.exports import Config, config_named, recipe_configs
from malt_data.schemas.pipeline import shipped

MALT = shipped()
EVERYTHING_IN_TRAIN = Selection(validation=0)
NEEDED = [*COLUMNS, "role", "parent_id"]
Columns = dict[str, list[Any]]
Facts = dict[str, Any]


# --- the ways -------------------------------------------------------------------------------------


def ours(forest: Forest, config: Config, out: Path, processes: int) -> None:
    export(forest, config, EVERYTHING_IN_TRAIN, out)


def from_generator(forest: Forest, config: Config, out: Path, processes: int) -> None:
    import datasets

    def generate() -> Iterator[dict[str, Any]]:
        tree: Columns = {name: [] for name in NEEDED}
        for row in nodes:
            if tree["question_id"] and row["question_id"] != tree["question_id"][0]:
                yield from rows_of(tree, questions, forest.manifest.spec.prompts, config)
                tree = {name: [] for name in NEEDED}
            for name, values in tree.items():
                values.append(row[name])
        yield from rows_of(tree, questions, forest.manifest.spec.prompts, config)

    questions = {row["question_id"]: row for row in forest.questions().collect().to_dicts()}
    nodes = datasets.load_dataset(
        "parquet",
        data_files=[str(path) for path in forest.parts.paths()],
        columns=NEEDED,
        split="train",
    )
    datasets.Dataset.from_generator(generate).to_parquet(out / "train.parquet")


def from_lists(forest: Forest, config: Config, out: Path, processes: int) -> None:
    import datasets

    def generate(paths: list[Path]) -> Iterator[dict[str, Any]]:
        for path in paths:
            nodes = pq.read_table(path, columns=NEEDED).to_pydict()
            yield from rows_of(nodes, questions, forest.manifest.spec.prompts, config)

    questions = {row["question_id"]: row for row in forest.questions().collect().to_dicts()}
    dataset = datasets.Dataset.from_generator(
        generate, gen_kwargs={"paths": forest.parts.paths()}, num_proc=workers(processes)
    )
    dataset.to_parquet(out / "train.parquet")


def batched_map(forest: Forest, config: Config, out: Path, processes: int) -> None:
    import datasets

    def transform(nodes: Columns) -> Columns:
        rows = list(rows_of(nodes, questions, forest.manifest.spec.prompts, config))
        return {name: [row[name] for row in rows] for name in config.schema.names}

    questions = {row["question_id"]: row for row in forest.questions().collect().to_dicts()}
    dataset = datasets.load_dataset(
        "parquet",
        data_files=[str(path) for path in forest.parts.paths()],
        columns=NEEDED,
        split="train",
    ).map(
        transform,
        batched=True,
        batch_size=25 * NODES_A_TREE,  # trees lie together, 39 nodes each
        remove_columns=NEEDED,
        num_proc=workers(processes),
    )
    dataset.to_parquet(out / "train.parquet")


def rows_of(
    nodes: Columns, questions: dict[str, Any], prompts: dict[str, Any], config: Config
) -> Iterator[dict[str, Any]]:
    """Yield the rows of whole trees: what a user writes in Python."""
    texts = dict(zip(nodes["node_id"], nodes["text"], strict=True))
    families: dict[str, list[int]] = {}
    for i in range(len(nodes["node_id"])):
        if nodes["role"][i] == config.role:
            parent = nodes["parent_id"][i] or nodes["question_id"][i]
            families.setdefault(parent, []).append(i)
    for parent, siblings in families.items():
        whole = [i for i in siblings if nodes["finish_reason"][i] != "length"]
        positive = [i for i in whole if nodes["label"][i]]
        if not positive:
            continue
        question = questions[nodes["question_id"][siblings[0]]]
        steps = parent.split("/")
        path = [texts["/".join(steps[:end])] for end in range(2, len(steps) + 1)]
        asked = question["kind"], question["question"], question["choices"]
        prompt = render(prompts, MALT, *asked, path)
        shared = {"prompt": list(prompt), "question_id": question["question_id"]}
        negative = [i for i in siblings if not nodes["label"][i]]
        for i in positive:
            answer = said(nodes["text"][i])
            if config.format.name == "sft":
                name, value = nodes["node_id"][i], nodes["value"][i]
                yield {**shared, "completion": answer, "node_id": name, "value": value}
                continue
            for j in negative:
                if nodes["text"][i] != nodes["text"][j]:
                    yield {
                        **shared,
                        "chosen": answer,
                        "rejected": said(nodes["text"][j]),
                        "chosen_id": nodes["node_id"][i],
                        "rejected_id": nodes["node_id"][j],
                        "chosen_value": nodes["value"][i],
                        "rejected_value": nodes["value"][j],
                    }


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def workers(processes: int) -> int | None:
    return processes if processes > 1 else None


WAYS: dict[str, Callable[[Forest, Config, Path, int], None]] = {
    "ours": ours,
    "from_generator": from_generator,
    "from_lists": from_lists,
    "map": batched_map,
}


# --- measuring, each in its own process -----------------------------------------------------------


def measure(way: str, forest: Forest, config: Config, out: Path, processes: int) -> Facts:
    """Run one way; return what it took."""
    import datasets  # outside the clock, for everyone

    datasets.disable_progress_bars()
    out.mkdir()
    wall, busy = time.perf_counter(), cpu()
    WAYS[way](forest, config, out, processes)
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": cpu() - busy, **memory()}


def measure_limit(forest: Forest, config: Config, exported: Path, out: Path) -> Facts:
    """Decode the nodes and write the exported tables once, and nothing else."""
    out.mkdir()
    read, write = [0.0, 0.0], [0.0, 0.0]
    for path in forest.parts.paths():
        for _ in timed(read, pq.ParquetFile(path).iter_batches(65_536, columns=COLUMNS)):
            pass
    with Shards(out, config.schema) as shards:
        for path in sorted(exported.glob("*.parquet")):
            file = pq.ParquetFile(path)
            for number in range(file.num_row_groups):
                table = file.read_row_group(number)
                wall, busy = time.perf_counter(), cpu()
                shards._append("train", table)  # on this thread: nothing overlaps
                write[0] += time.perf_counter() - wall
                write[1] += cpu() - busy
    return {
        "seconds": read[0] + write[0],
        "cpu_seconds": read[1] + write[1],
        "read_seconds": read[0],
        "write_seconds": write[0],
        **memory(),
    }


def timed(total: list[float], batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches; add to `total` the seconds, of the clock and of processors, they took."""
    while True:
        wall, busy = time.perf_counter(), cpu()
        batch = next(batches, None)
        total[0] += time.perf_counter() - wall
        total[1] += cpu() - busy
        if batch is None:
            return
        yield batch


def cpu() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def memory() -> Facts:
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return {"peak_mib": max(resource.getrusage(one).ru_maxrss for one in who) // 1024}


# --- the comparison -------------------------------------------------------------------------------


def apart(way: str, forest: Path, config: str, folder: Path, processes: int) -> Facts:
    """Measure a way in a fresh process with a fresh cache; add its rows and their digest."""
    out = folder / way
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
        command += ["--forest", str(forest), "--config", config, "--processes", str(processes)]
        child = subprocess.run(
            command,
            env={**os.environ, "HF_HOME": cache, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    facts: Facts = json.loads(child.stdout.splitlines()[-1])
    rows, digest = checked(out, config_named(config))
    return {"way": way, "rows": rows, "digest": digest, **facts, "rate": rows / facts["seconds"]}


def checked(folder: Path, config: Config) -> tuple[int, str]:
    """Return how many rows a folder's Parquet files hold and a digest that no order changes."""
    columns = ", ".join(config.schema.names)
    found = duckdb.execute(
        f"SELECT count(*), bit_xor(hash({columns})) FROM read_parquet('{folder}/*.parquet')"
    ).fetchall()[0]
    return found[0], f"{found[1]:016x}"


def compare(
    nodes: int, peer_nodes: int, config: str, folder: Path, processes: int, repeats: int
) -> tuple[list[Facts], dict[str, float]]:
    """Return the facts of every way, and how many times as fast (the limit: slow) as it ours is."""
    facts = []
    everything = (*WAYS, "limit")
    large = ("ours", "limit") if peer_nodes < nodes else everything
    for size, ways in {peer_nodes: everything, nodes: large}.items():
        forest = folder / f"forest-{size}"
        if not forest.exists():
            synthetic_forest(forest, size)
        found: list[Facts] = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory(dir=folder) as made:
                found += [apart(way, forest, config, Path(made), processes) for way in ways]
        if len({(one["rows"], one["digest"]) for one in found}) > 1:
            raise SystemExit(f"the ways differ in their rows: {found}")
        for way in ways:
            quickest = min((one for one in found if one["way"] == way), key=itemgetter("seconds"))
            facts.append({"nodes": size, **quickest})
    rate = {one["way"]: one["rate"] for one in facts}  # the later: of the larger forest
    return facts, {
        **{way: rate["ours"] / rate[way] for way in WAYS if way != "ours"},
        "limit": rate["limit"] / rate["ours"],
    }


def show(facts: Sequence[Facts], ratios: dict[str, float]) -> None:
    print(f"{'way':<15}{'nodes':>12}{'rows':>11}{'seconds':>9}{'rows/s':>9}{'CPU s':>9}{'MiB':>7}")
    for one in facts:
        print(
            f"{one['way']:<15}{one['nodes']:>12,}{one['rows']:>11,}{one['seconds']:>9.1f}"
            f"{one['rate']:>9,.0f}{one['cpu_seconds']:>9.1f}{one['peak_mib']:>7,}"
        )
    limit = facts[-1]
    print(
        "\nThe same rows everywhere, by digest. By rows a second ours is\n"
        f"{ratios['from_generator']:.1f} times as fast as from_generator, "
        f"{ratios['from_lists']:.1f} as from_lists, {ratios['map']:.1f} as map.\n"
        f"It takes {ratios['limit']:.2f} times the limit "
        f"(read {limit['read_seconds']:.1f} s, write {limit['write_seconds']:.1f} s)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=10_000_000)
    parser.add_argument("--peer-nodes", type=int, default=1_000_000, help="at most --nodes")
    parser.add_argument(
        "--config", default="refiner_dpo", choices=[c.name for c in recipe_configs(MALT.roles)]
    )
    parser.add_argument("--folder", type=Path, help="where forests are made, and found again")
    parser.add_argument("--processes", type=int, default=1, help="of each peer")
    parser.add_argument("--repeats", type=int, default=1, help="the quickest of so many")
    parser.add_argument("--json", action="store_true", help="print every fact")
    parser.add_argument("--way", choices=[*WAYS, "limit"], help="measure it in this process")
    parser.add_argument("--forest", type=Path, help="with --way: the forest")
    asked = parser.parse_args()
    if asked.way:
        forest, config = open_forest(asked.forest), config_named(asked.config)
        out = asked.folder / asked.way
        if asked.way == "limit":
            print(json.dumps(measure_limit(forest, config, asked.folder / "ours", out)))
        else:
            print(json.dumps(measure(asked.way, forest, config, out, asked.processes)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        peers = min(asked.nodes, asked.peer_nodes)
        facts, ratios = compare(
            asked.nodes, peers, asked.config, folder, asked.processes, asked.repeats
        )
    if asked.json:
        print(json.dumps({"config": asked.config, "ways": facts, "ours_against": ratios}))
    else:
        show(facts, ratios)


if __name__ == "__main__":
    main()
