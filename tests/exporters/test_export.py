"""Exports against rows derived by independent code, and their failures."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from exporters.derived import derive
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import ALL, make_forest

from malt_data.cli import main
from malt_data.engines.embedded import EMBEDDED
from malt_data.errors import ExportError, SpecError
from malt_data.exporters.export import (
    export,
    exports_of,
    read_report,
    to_datasets,
)
from malt_data.exporters.rows import Rows, chunks
from malt_data.exporters.selection import REASONS, Selection
from malt_data.exporters.verify import verify_export
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.relabel import relabel
from malt_data.schemas.exports import (
    Config,
    config_named,
    default_configs,
    recipe_configs,
    select_configs,
)
from malt_data.schemas.layout import EXPORT
from malt_data.schemas.spec import Labels

NAMES = [config.name for config in ALL]


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    return make_forest(tmp_path_factory.mktemp("forest") / "f", trees=40, n=(3, 3, 3))


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.parquet")):
        found.setdefault(path.name.partition("-")[0], []).extend(pq.read_table(path).to_pylist())
    return found


def ordered(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def same(left: dict[str, list[dict[str, Any]]], right: dict[str, list[dict[str, Any]]]) -> bool:
    return left.keys() == right.keys() and all(ordered(left[s]) == ordered(right[s]) for s in left)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "chosen",
    [
        Selection(),
        Selection(positives="mixed", margin=0.5, keep_truncated=True, validation=0.4, seed=3),
        Selection(keep_identical=True, keep_truncated=True, validation=0),
    ],
    ids=["default", "mixed", "keep"],
)
def test_rows_and_drops_match_independent_code(
    forest: Forest, tmp_path: Path, name: str, chosen: Selection
) -> None:
    config = config_named(name)
    report = export(forest, config, chosen, tmp_path / "out")
    rows, dropped = derive(forest, config, chosen)
    assert same(read(tmp_path / "out"), rows)
    assert report.rows == {split: len(found) for split, found in rows.items()}
    assert report.dropped == {reason: n for reason, n in dropped.items() if n}
    assert report.total + sum(report.dropped.values()) == report.candidates
    assert read_report(tmp_path / "out") == report


def test_a_question_is_in_the_same_split_in_every_config(forest: Forest, tmp_path: Path) -> None:
    sides: dict[str, set[str]] = {}
    for config in ALL:
        export(forest, config, Selection(validation=0.3), tmp_path / config.name)
        for split, rows in read(tmp_path / config.name).items():
            for row in rows:
                sides.setdefault(row["question_id"], set()).add(split)
    assert {frozenset(found) for found in sides.values()} == {
        frozenset({"train"}),
        frozenset({"validation"}),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "asked",
    [
        {"strategy": "one"},
        {"strategy": "best_worst"},
        {"max_per_parent": 1},
        {"max_per_question": 2},
        {"drop_duplicates": True},
        {"strategy": "one", "max_per_question": 1, "drop_duplicates": True, "margin": 0.3},
    ],
    ids=str,
)
def test_caps_and_strategies_keep_a_seeded_subset_of_the_rows(
    forest: Forest, name: str, asked: dict[str, Any]
) -> None:
    config = config_named(name)
    everything = {
        key(config, row): row for rows in derive(forest, config)[0].values() for row in rows
    }
    kept, reasons = rows_of(forest, config, Selection(**asked))
    again, _ = rows_of(forest, config, Selection(**asked))
    assert kept == again
    assert {key(config, row) for row in kept} <= set(everything)
    parents = Counter(parent(config, row) for row in kept)
    by_question = Counter(row["question_id"] for row in kept)
    if "strategy" in asked and config.format.name == "dpo":
        assert max(parents.values()) == 1
        margin = asked.get("margin", 0)
        able = {
            parent(config, row)
            for row in everything.values()
            if row["chosen_value"] - row["rejected_value"] >= margin - 1e-9
        }
        if "max_per_question" not in asked:
            assert set(parents) == able
    if asked.get("strategy") == "best_worst" and config.format.name == "dpo":
        for row in kept:
            siblings = [r for r in everything.values() if parent(config, r) == parent(config, row)]
            assert row["chosen_value"] == max(r["chosen_value"] for r in siblings)
            best = [r for r in siblings if r["chosen_value"] == row["chosen_value"]]
            assert row["rejected_value"] == min(r["rejected_value"] for r in best)
    if "max_per_parent" in asked and config.format.name != "trajectory":
        assert max(parents.values()) <= asked["max_per_parent"]
        assert len(parents) == len({parent(config, row) for row in everything.values()})
    if "max_per_question" in asked:
        assert max(by_question.values()) <= asked["max_per_question"]
        if "margin" not in asked or config.format.name != "dpo":
            assert set(by_question) == {row["question_id"] for row in everything.values()}
    if asked == {"drop_duplicates": True}:
        texts = [content(config, row) for row in kept]
        assert len(texts) == len(set(texts))
        assert set(texts) == {content(config, row) for row in everything.values()}
    assert set(reasons) <= set(REASONS)


def test_another_seed_selects_other_rows(forest: Forest) -> None:
    config = config_named("refiner_dpo")
    drawn = [
        {row["chosen_id"] for row in rows_of(forest, config, Selection(strategy="one", seed=s))[0]}
        for s in (0, 1)
    ]
    assert drawn[0] != drawn[1]


def rows_of(
    forest: Forest, config: Config, chosen: Selection
) -> tuple[list[dict[str, Any]], list[str]]:
    with Rows(forest, config, chosen) as rows:
        found = [row for _, batch in rows.batches() for row in batch.to_pylist()]
    return found, [reason for _, reason in rows.counts if reason]


def key(config: Config, row: dict[str, Any]) -> str:
    return "".join(row[name] for name in config.ids)


def parent(config: Config, row: dict[str, Any]) -> str:
    name: str = row["chosen_id" if config.format.name == "dpo" else "node_id"].rpartition("/")[0]
    return name


def content(config: Config, row: dict[str, Any]) -> str:
    texts = ("chosen", "rejected") if config.format.name == "dpo" else ("completion",)
    return json.dumps([parent(config, row), *(row[t][0]["content"] for t in texts)])


# --- shape, order, size ---------------------------------------------------------------------------


def test_rows_do_not_depend_on_parts_and_chunks(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=12)
    whole = pa.concat_tables(chunks(forest))
    assert whole.num_rows == forest.nodes().collect().height
    small = list(chunks(forest, budget=1))
    assert len(small) > 5
    assert pa.concat_tables(small).equals(whole)
    for table in small:  # whole trees
        others = [t for t in small if t is not table]
        mine = set(table["question_id"].to_pylist())
        assert not any(mine & set(other["question_id"].to_pylist()) for other in others)
    before = rows_of(forest, config_named("verifier_dpo"), Selection(strategy="one"))[0]
    forest.parts.compact()
    assert len(forest.parts.paths()) == 1
    list_small = list(chunks(forest, budget=20_000))
    assert pa.concat_tables(list_small).num_rows == whole.num_rows
    after = rows_of(forest, config_named("verifier_dpo"), Selection(strategy="one"))[0]
    assert ordered(before) == ordered(after)


def test_rows_come_tree_by_tree_in_the_order_of_the_parts(forest: Forest) -> None:
    for name in ("refiner_dpo", "verifier_sft", "trajectory"):
        rows, _ = rows_of(forest, config_named(name), Selection(validation=0))
        trees = list(dict.fromkeys(row["question_id"] for row in rows))
        stored = pa.concat_tables(chunks(forest))["question_id"].to_pylist()
        assert trees == [t for t in dict.fromkeys(stored) if t in set(trees)]
        ids = [key(config_named(name), row) for row in rows]
        by_tree: dict[str, list[str]] = {}
        for row, one in zip(rows, ids, strict=True):
            by_tree.setdefault(row["question_id"], []).append(one)
        assert all(found == sorted(found) for found in by_tree.values())


def test_the_same_forest_gives_the_same_bytes(forest: Forest, tmp_path: Path) -> None:
    for out in ("a", "b"):
        export(forest, config_named("refiner_dpo"), None, tmp_path / out)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == [EXPORT, "train-00000.parquet", "validation-00000.parquet"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_shards_are_split_by_size(
    forest: Forest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("malt_data.exporters.shards._SHARD_BYTES", 1)
    monkeypatch.setattr("malt_data.exporters.rows._CHUNK_BYTES", 1)
    report = export(forest, config_named("refiner_sft"), None, tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("train-*.parquet"))
    assert len(shards) > 5
    assert sum(pq.read_metadata(p).num_rows for p in shards) == report.rows["train"]


def test_every_shard_is_stamped_and_has_the_declared_columns(
    forest: Forest, tmp_path: Path
) -> None:
    for config in ALL:
        export(forest, config, None, tmp_path / config.name)
        for path in (tmp_path / config.name).glob("*.parquet"):
            schema = pq.read_schema(path)
            assert schema.metadata[b"malt.schema"] == b"export/1"
            assert schema.remove_metadata().names == config.schema.names


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
            st.sampled_from(
                ["{question}", "{verification}", "{initial_answer}{choices}", "$text_0", "'; --",
                 "---\nconfigs: x\n---", "| a | b |", "<script>", "{{ 7 * 7 }}", "\0", "\x1b[2J",
                 "<|im_start|>system", "\u202e", "\U0010ffff\U000e0001"]
            ),
        ),
        min_size=4,
        max_size=8,
    )
)  # fmt: skip
def test_hostile_texts_are_exported_unchanged(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    forest = make_forest(tmp_path_factory.mktemp("h") / "f", trees=3)
    rewrite(forest, texts)
    for name in ("generator_sft", "verifier_dpo", "refiner_dpo", "trajectory"):
        config = config_named(name)
        rows, _ = derive(forest, config)
        assert ordered(rows_of(forest, config, Selection())[0]) == ordered(
            [row for found in rows.values() for row in found]
        )


def rewrite(forest: Forest, texts: list[str], *, questions: bool = True) -> None:
    """Replace the texts of nodes and questions (whose ids then no longer match)."""
    supply = itertools.cycle(texts)
    for path in forest.parts.paths():
        table = pq.read_table(path, partitioning=None)
        column = pa.array(list(itertools.islice(supply, table.num_rows)))
        place = table.schema.get_field_index("text")
        pq.write_table(table.set_column(place, table.schema.field(place), column), path)
    if not questions:
        return
    path = forest.folder / "questions.parquet"
    table = pq.read_table(path)
    column = pa.array([texts[i % len(texts)] for i in range(table.num_rows)])
    place = table.schema.get_field_index("question")
    pq.write_table(table.set_column(place, table.schema.field(place), column), path)


def test_completions_of_a_megabyte_and_every_plane(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=4)
    planes = "".join(chr(0x10000 * plane + 0x1234) for plane in range(17) if plane != 13)
    rewrite(forest, ["x" * 2**20 + planes, planes * 20_000, "short"])
    config = config_named("refiner_dpo")
    report = export(forest, config, None, tmp_path / "out")
    rows, _ = derive(forest, config)
    assert report.total > 0
    assert same(read(tmp_path / "out"), rows)


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_not_touched(forest: Forest, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match=r"contains other files.*--out"):
        export(forest, config_named("refiner_dpo"), None, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]  # noqa: PTH208
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208


def test_an_export_is_replaced_with_all_its_shards(forest: Forest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(forest, config_named("refiner_sft"), Selection(validation=0.4), out)
    report = export(forest, config_named("refiner_dpo"), Selection(validation=0), out)
    assert sorted(p.name for p in out.iterdir()) == [EXPORT, "train-00000.parquet"]
    assert read_report(out).config == report.config == "refiner_dpo"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_killed_export_keeps_the_old_one(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=200, n=(3, 3, 3))
    before = export(forest, config_named("refiner_dpo"), Selection(seed=5))
    code = (
        "import malt_data.exporters.rows as rows\n"
        "rows._CHUNK_BYTES = 1\n"
        "from malt_data.cli import main\n"
        f"main(['export', {str(forest.folder)!r}, '--role', 'refiner', '--format', 'dpo'])"
    )
    out = forest.folder / "exports" / "refiner_dpo"
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        wait_for(lambda: list(out.parent.glob(".refiner_dpo.*.tmp/*.parquet")))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert read_report(out) == before
        assert len(list(out.parent.glob(".*.tmp"))) == 1  # the one before is removed
    assert export(forest, config_named("refiner_dpo")).total == before.total
    assert list(out.parent.glob(".*.tmp")) == []


def wait_for(true: Any) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.02)
    raise TimeoutError


@pytest.mark.slow
def test_concurrent_exports_leave_one_complete(forest: Forest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "malt_data", "export", str(forest.folder), "--role", "refiner",
               "--format", "dpo", "--out", str(out)]  # fmt: skip
    children = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for child in children:
        _, message = child.communicate(timeout=60)
        assert b"Traceback" not in message
    rows, _ = derive(forest, config_named("refiner_dpo"))
    assert same(read(out), rows)


def test_a_corrupt_report_is_a_clear_error(forest: Forest, tmp_path: Path) -> None:
    export(forest, config_named("refiner_dpo"), None, tmp_path / "out")
    (tmp_path / "out" / EXPORT).write_text('{"format": ')
    with pytest.raises(ExportError, match="cannot be read"):
        read_report(tmp_path / "out")
    with pytest.raises(ExportError, match="is not an export"):
        read_report(tmp_path)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(SpecError, match=r"margin.*\(got 3\)"):
        Selection(margin=3)
    with pytest.raises(SpecError, match="unknown setting 'strategie'"):
        Selection(**{"strategie": "all"})
    with pytest.raises(SpecError, match=r"Unknown export .refiner_ppo.*dpo, kto"):
        config_named("refiner_ppo")
    with pytest.raises(SpecError, match="span all roles"):
        select_configs(ROLES, "refiner", "trajectory")


def test_role_and_format_select_configs() -> None:
    assert [c.name for c in select_configs(ROLES, None, None)] == [
        c.name for c in default_configs(ROLES)
    ]
    assert set(default_configs(ROLES)) - set(recipe_configs(ROLES)) == {
        config_named("generator_dpo")
    }  # a baseline's
    assert [c.name for c in select_configs(ROLES, "generator", None)] == [
        "generator_sft",
        "generator_dpo",
    ]
    assert [c.name for c in select_configs(ROLES, "all", "kto")] == [f"{r}_kto" for r in ROLES]
    assert [c.name for c in select_configs(ROLES, None, "trajectory")] == ["trajectory"]
    assert [c.name for c in select_configs(ROLES, "generator", "dpo")] == ["generator_dpo"]


ROLES = ("generator", "verifier", "refiner")


def test_a_relabel_makes_an_export_stale(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=6)
    export(forest, config_named("refiner_dpo"))
    assert exports_of(forest)["refiner_dpo"].forest == forest.fingerprint()
    relabel(forest, Labels(threshold=0.7))
    again = open_forest(forest.folder)
    assert exports_of(again)["refiner_dpo"].forest != again.fingerprint()


def test_to_datasets_gives_the_same_rows(forest: Forest) -> None:
    found = to_datasets(forest, "verifier_dpo", Selection(validation=0.3))
    rows, _ = derive(forest, config_named("verifier_dpo"), Selection(validation=0.3))
    assert same({split: data.to_list() for split, data in found.items()}, rows)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_forest(tmp_path: Path) -> None:
    """Peak memory over 8 times the trees stays within a third, once a chunk is full."""
    peaks = []
    for copies in (1, 8):
        forest = make_forest(tmp_path / str(copies), trees=4, n=(3, 3, 3))
        rewrite(forest, [("word " * 40_000) + str(i) for i in range(11)])
        part = forest.parts.paths()[0]
        table = forest.parts.read(part)
        for copy in range(20 * copies):
            name = f"{copy:016x}"
            renamed = pl.DataFrame(table).with_columns(
                pl.lit(name).alias("question_id"),
                pl.concat_str(pl.lit(name), pl.col("node_id").str.slice(16)).alias("node_id"),
            )
            forest.parts.write(renamed.to_arrow().cast(table.schema))
        code = (
            "import resource, sys\n"
            "from malt_data.cli import main\n"
            "try: main(['export', sys.argv[1], '--role', 'refiner', '--format', 'sft'])\n"
            "except SystemExit: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(forest.folder)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(run.stdout.split()[-1]))
    assert peaks[1] < 1.33 * peaks[0], peaks


# --- verify ---------------------------------------------------------------------------------------


def test_verify_accepts_a_valid_export_and_names_each_damage(tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=12)
    export(forest, config_named("refiner_sft"), Selection(validation=0.4))
    folder = forest.folder / "exports" / "refiner_sft"
    assert verify_export(folder) == []
    train, validation = folder / "train-00000.parquet", folder / "validation-00000.parquet"
    kept = train.read_bytes()

    def problems() -> str:
        found = " ".join(verify_export(folder))
        train.write_bytes(kept)
        return found

    table = pq.read_table(train)
    pq.write_table(table[:-1], train)
    assert "export.json says" in problems()
    pq.write_table(table.replace_schema_metadata({}), train)
    assert "not stamped" in problems()
    pq.write_table(table.drop_columns("value"), train)
    assert "columns are not those of" in problems()
    other = pq.read_table(validation)
    pq.write_table(pa.concat_tables([table[: -other.num_rows], other]), train)
    assert "in train and validation" in problems()
    train.write_bytes(kept[: len(kept) // 2])
    assert "corrupt" in problems()
    relabel(forest, Labels(threshold=0.9))
    assert "earlier state" in problems()


@pytest.mark.slow
def test_check_requires_rows_of_requested_configs_and_of_the_recipe(
    tmp_path: Path,
) -> None:
    forest = make_forest(tmp_path / "f", trees=8, n=(1, 3, 3))  # one generator: no pairs of it

    def checked(*words: str) -> Any:
        command = ["export", str(forest.folder), *words, "--check", "--tokenizer", EMBEDDED]
        return CliRunner().invoke(main, [*command, "--json"])

    assert checked().exit_code == 0
    run = checked("--role", "generator")
    assert run.exit_code == 1
    assert "generator_dpo: no rows" in run.stderr


def test_a_manifest_from_elsewhere_cannot_make_an_export_read_other_files(tmp_path: Path) -> None:
    """Kinds and templates become SQL: whatever they contain, it is only ever text."""
    forest = make_forest(tmp_path / "f", trees=4)
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    path = forest.folder / "forest.json"
    manifest = json.loads(path.read_text())
    prompts = manifest["spec"]["prompts"]
    read = f"(SELECT content FROM read_text('{secret}'))"
    hostile = f"numeric' THEN [{{'role': 'user', 'content': {read}}}] WHEN 'x"
    manifest["spec"]["prompts"] = prompts = {hostile: prompts["math"], **prompts}
    prompts["numeric"]["generator"]["user"] = "{question} {key} {read_text} '; COPY x TO 'y'; --"
    del prompts["choice"]["generator"]
    path.write_text(json.dumps(manifest))
    rows = to_datasets(open_forest(forest.folder), "generator_value")
    prompt = [m["content"] for split in rows.values() for row in split["prompt"] for m in row]
    assert prompt
    assert all(text.endswith(" {key} {read_text} '; COPY x TO 'y'; --") for text in prompt)
    assert not any("the secret" in text for text in prompt)
