"""Push, pull and open through the real Hub clients, against the Hub of hub_server.py."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from exporters.derived import derive
from exporters.test_export import rewrite
from hub_server import Hub, User
from shell import malt as run_malt
from synthetic import ALL, make_forest

from malt_data.errors import SpecError
from malt_data.exporters.selection import Selection
from malt_data.forests.forest import Forest, open_forest
from malt_data.forests.verify import verify
from malt_data.prompts.pipelines import find_pipeline
from malt_data.publish.card import render_card
from malt_data.schemas.exports import config_named
from malt_data.storage.files import lock
from malt_data.storage.hub import parse_repo

pytestmark = pytest.mark.slow

REPO = "ann/trees"
HOMES: dict[str, Path] = {}
EVERY = ",".join(config.name for config in ALL)


@pytest.fixture(params=["lfs", "xet"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub", xet=request.param == "xet") as hub:
        HOMES[hub.url] = tmp_path
        yield hub


@pytest.fixture
def lfs(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub", xet=False) as hub:
        HOMES[hub.url] = tmp_path
        yield hub


@pytest.fixture
def forest(tmp_path: Path) -> Forest:
    return make_forest(tmp_path / "f", trees=20)


def malt(hub: Hub, *words: object, home: str = "home", token: str | None = "hf_writer",
         code: int = 0, **environment: str) -> tuple[Any, str]:  # fmt: skip
    """Run a command in a process and with a cache of its own; return (stdout, stderr)."""
    settings = hub.environment(home_of(hub, home), token=token) | environment
    run = run_malt(*words, env=settings)
    assert "Traceback" not in run.stderr, run.stderr
    assert run.returncode == code, (run.returncode, run.stdout, run.stderr)
    if code:
        assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    found = json.loads(run.stdout) if "--json" in words and not code else run.stdout
    return found, run.stderr


def python(hub: Hub, code: str, home: str = "clean", token: str | None = "hf_writer") -> Any:
    """Run code that does not use malt-data; return the JSON it prints."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=hub.environment(home_of(hub, home), token=token),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def home_of(hub: Hub, name: str) -> Path:
    return HOMES[hub.url] / name


def commits(hub: Hub, revision: str = "main") -> int:
    return len(hub.commits("dataset", REPO, revision))


def local(folder: Path) -> dict[str, bytes]:
    """Return the files of a forest that a push sends, without the card."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.name != "README.md"
    }


def remote(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    files: dict[str, bytes] = dict(hub.files("dataset", REPO, revision))
    return {k: v for k, v in files.items() if k not in ("README.md", ".gitattributes")}


# --- what others see ------------------------------------------------------------------------------


def test_load_dataset_gives_the_derived_rows_of_every_config(hub: Hub, forest: Forest) -> None:
    facts, _ = malt(hub, "push", forest.folder, REPO, "--exports", EVERY, "--json")
    assert facts["changed"]
    code = (
        "import json, sys, datasets\n"
        f"repo, names = {REPO!r}, {EVERY!r}.split(',') + ['questions', 'nodes']\n"
        "print(json.dumps({name: {split: list(rows) for split, rows in\n"
        "    datasets.load_dataset(repo, name).items()} for name in names}))"
    )
    found = python(hub, code)
    for config in ALL:
        rows, _ = derive(forest, config)
        assert found[config.name].keys() == rows.keys()
        for split in rows:
            assert sorted(map(dump, found[config.name][split])) == sorted(map(dump, rows[split]))
    nodes = forest.nodes().collect().to_dicts()
    assert [row["node_id"] for row in found["nodes"]["train"]] == [r["node_id"] for r in nodes]
    assert [row["value"] for row in found["nodes"]["train"]] == [row["value"] for row in nodes]
    assert found["questions"]["train"] == forest.questions().collect().to_dicts()


def dump(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


def test_hostile_texts_break_neither_card_nor_rows(lfs: Hub, forest: Forest) -> None:
    hostile = ["---\nlicense: evil\n---", "| a | b |\n|---|", "</details><script>alert(1)</script>",
               "{{ 7 * 7 }}{% include '/etc/passwd' %}", "```\n````\n# Title", "\x00\x1b[31m\u202e",
               "![x](http://evil)", "\U0001f600\U0002ffff\U000e0001\U0010ffff"]  # fmt: skip
    rewrite(forest, hostile)
    malt(lfs, "push", forest.folder, REPO)
    files = lfs.files("dataset", REPO, "main")
    card = files["README.md"].decode()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "mit"
    outside, inside = [], ""
    for line in body.splitlines():  # as CommonMark reads fences
        run = line[: len(line) - len(line.lstrip("`"))]
        if inside:
            inside = "" if len(run) >= len(inside) and line == run else inside
        elif len(run) >= 3:
            inside = run
        else:
            outside.append(line)
    assert not inside
    shown = "\n".join(outside)
    assert "One tree" in shown
    assert "## Citation" in shown
    assert "<script>" not in shown
    assert "\x1b" not in card
    assert "\u202e" not in card
    assert "49" not in card.partition("## Counts")[0]
    code = (
        "import json, datasets\n"
        f"print(json.dumps([r['text'] for r in datasets.load_dataset({REPO!r}, 'nodes')['train']]))"
    )
    assert python(lfs, code) == forest.nodes().collect()["text"].to_list()


def test_the_card_has_measured_facts(lfs: Hub, forest: Forest) -> None:
    malt(lfs, "push", forest.folder, REPO)
    card = lfs.files("dataset", REPO, "main")["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    names = [config["config_name"] for config in front["configs"]]
    assert names[:2] == ["questions", "nodes"]
    assert sum(config.get("default", False) for config in front["configs"]) == 1
    assert front["size_categories"] == "n<1K"
    rows, dropped = derive(forest, config_named("refiner_dpo"))
    assert f'"refiner_dpo", split="train")  # {len(rows["train"])} rows' in card
    for reason, count in dropped.items():
        if count:
            assert f"| {count} | {reason} |" in card
    assert "1 rows of the source were refused: no gold" in card
    assert "malt-data build" in card
    assert forest.manifest.spec.prompts["numeric"]["verifier"]["user"] in card
    assert "--config" not in card
    malt(lfs, "relabel", forest.folder, "--threshold", "0.2")
    malt(lfs, "push", forest.folder, REPO)
    card = lfs.files("dataset", REPO, "main")["README.md"].decode()
    assert '"threshold": 0.2' in card


def test_the_card_builds_a_pipeline_of_ones_own_with_its_own_branching(tmp_path: Path) -> None:
    turns = (("solver", 3, "solve", ""), ("critic", 2, "criticise", "{solver}"),
             ("solver", 2, "revise", "{solver} {critic}"))  # fmt: skip
    file = tmp_path / "critic.toml"
    file.write_text(
        "".join(f"[[turns]]\nrole='{who}'\nn={n}\nprompt='{how}'\n" for who, n, how, _ in turns)
        + "".join(f"[prompts.numeric.{how}]\nuser='{{question}} {t}'\n" for *_, how, t in turns)
    )
    forest = make_forest(tmp_path / "f", trees=2, pipeline=find_pipeline(file))
    assert "--pipeline critic.toml" in render_card(forest, REPO, [])
    assert "--n-" not in render_card(forest, REPO, [])


# --- round trip -----------------------------------------------------------------------------------


def test_round_trip_between_machines(hub: Hub, tmp_path: Path) -> None:
    forest = make_forest(tmp_path / "f", trees=60, n=(3, 3, 3))
    texts = forest.nodes().select("text").collect()["text"]
    words = [f"{random.Random(i).randbytes(400).hex()}\n{text}" for i, text in enumerate(texts)]
    rewrite(forest, words, questions=False)
    forest.parts.compact()
    forest = open_forest(forest.folder)
    facts, _ = malt(hub, "push", forest.folder, REPO, "--tag", "v1", "--json")
    assert remote(hub) == local(forest.folder)
    first = commits(hub)
    total = hub.uploaded

    again, _ = malt(hub, "push", forest.folder, REPO, "--tag", "v1", "--json")
    assert (again["changed"], again["commit"]) == (False, facts["commit"])
    assert (commits(hub), hub.uploaded) == (first, total)

    other = tmp_path / "other"
    pulled, _ = malt(hub, "pull", f"{REPO}@v1", "--out", other, "--json", home="elsewhere")
    assert pulled == {"forest": str(other), "trees": 60}
    assert local(other) == local(forest.folder)
    assert verify(open_forest(other)) == []

    malt(hub, "push", other, REPO, home="elsewhere")
    assert (commits(hub), hub.uploaded) == (first, total)

    malt(hub, "relabel", other, "--threshold", "0.9", home="elsewhere")
    facts, _ = malt(hub, "push", other, REPO, "--json", home="elsewhere")
    assert commits(hub) == first + 1
    assert remote(hub) == local(other)
    assert "questions.parquet" not in facts["uploaded"]
    assert (
        hub.files("dataset", REPO, "v1")["forest.json"]
        == (forest.folder / "forest.json").read_bytes()
    )
    sent = hub.uploaded - total
    if hub.xet:  # texts did not change: only labels and fewer, other rows travel
        assert sent < 0.2 * total, (sent, total)

    _, message = malt(hub, "push", forest.folder, REPO, code=1)  # the first copy is behind now
    assert "was changed elsewhere" in message
    assert "--replace" in message
    assert commits(hub) == first + 1
    malt(hub, "push", forest.folder, REPO, "--replace")
    assert remote(hub) == local(forest.folder)


def test_a_forest_pulled_by_tag_can_be_pushed(lfs: Hub, forest: Forest, tmp_path: Path) -> None:
    malt(lfs, "push", forest.folder, REPO, "--exports", "none", "--tag", "v1")
    malt(lfs, "pull", f"{REPO}@v1", "--out", tmp_path / "out")
    malt(lfs, "relabel", tmp_path / "out", "--threshold", "0.2")
    malt(lfs, "push", tmp_path / "out", REPO, "--exports", "none")
    assert remote(lfs) == local(tmp_path / "out")


def test_sql_on_a_forest_on_the_hub(hub: Hub, forest: Forest, tmp_path: Path) -> None:
    malt(hub, "push", forest.folder, REPO, "--exports", "none")
    query = "SELECT role, count(*) AS n, sum(leaves) AS v FROM nodes GROUP BY role ORDER BY role"
    here, _ = malt(hub, "sql", forest.folder, query)
    url = f"hf://datasets/{REPO}"
    there, _ = malt(hub, "sql", url, query, home="reader", token="hf_reader")
    assert there == here
    asked = len(hub.requests)
    offline, _ = malt(hub, "sql", url, query, home="reader", HF_ENDPOINT="http://127.0.0.1:9")
    assert (offline, len(hub.requests)) == (here, asked)
    for words in (["stats", url], ["show", url], ["verify", url]):
        malt(hub, *words, home="reader")
    out = tmp_path / "out"
    expected = ["--role", "refiner", "--format", "dpo"]
    malt(hub, "export", url, *expected, "--out", out, home="reader")
    assert list(out.glob("*.parquet"))
    for words in (
        ["export", url, *expected],
        ["relabel", url, "--threshold", "0.7"],
        ["push", url, REPO],
    ):
        _, message = malt(hub, *words, home="reader", code=1)
        assert "is read-only" in message
        assert "malt-data pull" in message
    code = (
        "import json, malt_data\n"
        f"forest = malt_data.open_forest({url!r})\n"
        "print(json.dumps(forest.nodes().collect()['node_id'].to_list()))"
    )
    assert python(hub, code, home="reader") == forest.nodes().collect()["node_id"].to_list()


def test_stale_exports_are_rewritten_with_their_settings(lfs: Hub, forest: Forest) -> None:
    folder = forest.folder
    malt(lfs, "export", folder, "--role", "refiner", "--format", "dpo", "--strategy", "one")
    own = folder / "exports" / "refiner_dpo_margin"  # not for the Hub, which has one per config
    malt(lfs, "export", folder, "--role", "refiner", "--format", "dpo", "--out", own)
    malt(lfs, "push", folder, REPO)
    malt(lfs, "relabel", folder, "--threshold", "0.2")
    malt(lfs, "push", folder, REPO)
    report = json.loads(remote(lfs)["exports/refiner_dpo/export.json"])
    assert report["selection"]["strategy"] == "one"
    assert report["labels"]["threshold"] == 0.2
    names = {path.split("/")[1] for path in remote(lfs) if path.startswith("exports/")}
    assert names == {"refiner_dpo"}


def test_branch_pull_request_private_and_dry_run(lfs: Hub, forest: Forest) -> None:
    folder = forest.folder
    facts, _ = malt(lfs, "push", folder, REPO, "--dry-run", "--json")
    assert facts["changed"]
    assert "forest.json" in facts["uploaded"]
    assert lfs.repos() == []
    malt(lfs, "push", folder, REPO, "--private", "--revision", "dev", "--exports", "none")
    assert "forest.json" in remote(lfs, "dev")
    assert "forest.json" not in remote(lfs, "main")
    _, message = malt(lfs, "pull", f"{REPO}@dev", "--out", folder.parent / "p", token=None, code=1)
    assert "hf auth login" in message
    facts, _ = malt(lfs, "push", folder, REPO, "--pr", "--json")
    assert facts["pull_request"]
    assert "forest.json" not in remote(lfs, "main")
    assert "forest.json" in remote(lfs, "refs/pr/1")
    done, _ = malt(lfs, "export", folder, "--push", REPO, "--json")
    assert done["push"]["changed"]
    assert "exports/verifier_dpo/train-00000.parquet" in remote(lfs, "main")


def test_after_a_merged_pull_request_the_next_push_goes_on(lfs: Hub, forest: Forest) -> None:
    folder = forest.folder
    malt(lfs, "push", folder, REPO, "--exports", "none")
    malt(lfs, "relabel", folder, "--threshold", "0.2")
    malt(lfs, "push", folder, REPO, "--exports", "none", "--pr")
    shutil.copytree(folder, folder.parent / "merged")
    malt(lfs, "push", folder.parent / "merged", REPO, "--exports", "none")  # as a merge would
    malt(lfs, "relabel", folder, "--threshold", "0.8")
    malt(lfs, "push", folder, REPO, "--exports", "none")
    assert remote(lfs)["forest.json"] == local(folder)["forest.json"]


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"status": 429, "headers": {"Retry-After": "1"}},
        {"status": 412},
        {"close": True},
        {"late": True},
    ],
    ids=str,
)
def test_a_transient_error_at_the_commit_leaves_exactly_one_commit(
    hub: Hub, forest: Forest, fault: dict[str, Any]
) -> None:
    hub.fail(method="POST", path=r"/commit/", times=1, **fault)
    malt(hub, "push", forest.folder, REPO, "--exports", "none")
    assert commits(hub) == 2  # the repo's own first one, and ours
    assert remote(hub) == local(forest.folder)


@pytest.mark.parametrize("path", [r"/api/datasets/.*/tree/", r"/api/datasets/ann/trees/revision"])
def test_a_transient_error_before_the_commit_leaves_exactly_one_commit(
    lfs: Hub, forest: Forest, path: str
) -> None:
    lfs.fail(method="GET", path=path, status=503, times=1)
    malt(lfs, "push", forest.folder, REPO, "--exports", "none")
    assert remote(lfs) == local(forest.folder)


def test_a_permanent_error_leaves_no_partial_push(hub: Hub, forest: Forest) -> None:
    hub.fail(method="POST", path=r"/commit/", close=True, times=99)
    _, message = malt(hub, "push", forest.folder, REPO, code=1)
    assert "is unreachable" in message
    assert commits(hub) == 1
    assert remote(hub) == {}
    hub.faults.clear()
    sent = hub.stored()
    malt(hub, "push", forest.folder, REPO)
    assert commits(hub) == 2
    assert remote(hub) == local(forest.folder)
    assert hub.stored() == sent  # what was uploaded before is not stored twice


def test_killed_while_pushing(lfs: Hub, forest: Forest, tmp_path: Path) -> None:
    code = (
        "import os, sys, huggingface_hub as hub\n"
        "hub.HfApi.create_commit = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        "from malt_data.cli import main\n"
        f"main(['push', {str(forest.folder)!r}, {REPO!r}])"
    )
    environment = lfs.environment(tmp_path / "home", token="hf_writer")
    run = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert run.returncode == -9
    malt(lfs, "push", forest.folder, REPO)
    assert remote(lfs) == local(forest.folder)
    assert verify(forest) == []


def test_concurrent_pushes_end_in_one_state(lfs: Hub, forest: Forest, tmp_path: Path) -> None:
    malt(lfs, "export", forest.folder)
    copies = [forest.folder]
    for i in range(3):
        copies.append(Path(shutil.copytree(forest.folder, forest.folder.parent / f"c{i}")))
    environment = lfs.environment(tmp_path / "home", token="hf_writer")
    children = [
        subprocess.Popen([sys.executable, "-m", "malt_data", "push", str(c), REPO], env=environment,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in copies
    ]  # fmt: skip
    for child in children:
        _, message = child.communicate(timeout=120)
        assert child.returncode == 0, message
    assert commits(lfs) == 2
    assert remote(lfs) == local(forest.folder)


def test_foreign_files_are_kept_and_changed_forest_files_not_overwritten(
    lfs: Hub, forest: Forest
) -> None:
    malt(lfs, "push", forest.folder, REPO)
    write = (
        "import json, huggingface_hub as hub\n"
        "hub.HfApi().upload_file(path_or_fileobj=b'mine', path_in_repo={path!r},\n"
        f"    repo_id={REPO!r}, repo_type='dataset')\n"
        "print(json.dumps(1))"
    )
    python(lfs, write.replace("{path!r}", "'notes.txt'"))
    malt(lfs, "relabel", forest.folder, "--threshold", "0.2")
    malt(lfs, "push", forest.folder, REPO)
    assert lfs.files("dataset", REPO, "main")["notes.txt"] == b"mine"
    python(lfs, write.replace("{path!r}", "'exports/refiner_dpo/export.json'"))
    malt(lfs, "relabel", forest.folder, "--threshold", "0.3")
    before = commits(lfs)
    _, message = malt(lfs, "push", forest.folder, REPO, code=1)
    assert "exports/refiner_dpo/export.json" in message
    assert commits(lfs) == before
    malt(lfs, "push", forest.folder, REPO, "--replace")
    assert remote(lfs)["notes.txt"] == b"mine"


def test_another_forest_is_not_overwritten(lfs: Hub, forest: Forest, tmp_path: Path) -> None:
    malt(lfs, "push", forest.folder, REPO)
    other = make_forest(tmp_path / "g", trees=3, seed=9)
    _, message = malt(lfs, "push", other.folder, REPO, code=1)
    assert "was changed elsewhere" in message
    assert remote(lfs) == local(forest.folder)


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (["push", "F", REPO], "hf_reader", "lacks permission"),
        (["push", "F", REPO], None, "hf auth login"),
        (["push", "F", REPO], "hf_wrong", "hf auth login"),
        (["push", "F", "bob/trees"], "hf_writer", "lacks permission"),
        (["pull", "ann/none"], "hf_writer", "is not on the Hub"),
        (["sql", "hf://datasets/ann/none", "FROM nodes"], "hf_writer", "is not on the Hub"),
        (["pull", f"{REPO}@none"], "hf_writer", "no such revision"),
    ],
)
def test_refusals_are_clear_one_line_errors(
    lfs: Hub, forest: Forest, words: list[str], token: str | None, message: str
) -> None:
    malt(lfs, "push", forest.folder, REPO, "--exports", "none")
    malt(lfs, "relabel", forest.folder, "--threshold", "0.2")
    before = remote(lfs)
    given = [str(forest.folder) if word == "F" else word for word in words]
    out = ["--out", forest.folder.parent / "out"] if words[0] == "pull" else []
    _, error = malt(lfs, *given, *out, token=token, code=1)
    assert message in error
    assert "hf_" not in error
    assert remote(lfs) == before
    assert not (forest.folder.parent / "out").exists()


@pytest.mark.parametrize("name", ["trees", "a/b/c", "/x", "ann/", "ann/tr ees", "../x", "a/b@"])
def test_invalid_repo_names(lfs: Hub, forest: Forest, name: str) -> None:
    if name != "a/b@":
        malt(lfs, "push", forest.folder, name, code=2)
        malt(lfs, "pull", name, code=2)
    malt(lfs, "pull", REPO, "--out", "..", code=2)


def test_parse() -> None:
    assert parse_repo("me/trees@v1") == ("me/trees", "v1")
    assert parse_repo("me/trees") == ("me/trees", None)
    with pytest.raises(SpecError, match="user/name"):
        parse_repo("trees")


def test_without_a_network(lfs: Hub, forest: Forest, tmp_path: Path) -> None:
    gone = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    for words in (["push", forest.folder, REPO], ["pull", REPO, "--out", tmp_path / "out"],
                  ["sql", f"hf://datasets/{REPO}", "FROM nodes"]):  # fmt: skip
        _, message = malt(lfs, *words, code=1, **gone)
        assert "is unreachable" in message
    assert not (tmp_path / "out").exists()
    assert verify(forest) == []


def test_a_repo_without_a_forest(lfs: Hub, tmp_path: Path) -> None:
    code = (
        "import json, huggingface_hub as hub\n"
        f"hub.HfApi().create_repo({REPO!r}, repo_type='dataset')\n"
        "print(1)"
    )
    python(lfs, code)
    for words in (["pull", REPO, "--out", tmp_path / "out"], ["stats", f"hf://datasets/{REPO}"]):
        _, message = malt(lfs, *words, code=1)
        assert "is not a forest" in message


def test_an_interrupted_pull_resumes(hub: Hub, forest: Forest, tmp_path: Path) -> None:
    malt(hub, "push", forest.folder, REPO)
    out = tmp_path / "out"
    hub.fail(
        method="GET", path=r"/(resolve|cdn|reconstructions|xorbs)/.*", status=404, times=99, after=4
    )
    _, message = malt(hub, "pull", REPO, "--out", out, code=1, home="new")
    assert message
    assert not out.exists()
    hub.faults.clear()
    with lock(tmp_path / ".out.partial"):
        _, message = malt(hub, "pull", REPO, "--out", out, code=1, home="new")
        assert "is being pulled by another process" in message
    malt(hub, "pull", REPO, "--out", out, home="new")
    assert local(out) == local(forest.folder)
    assert not (out / ".lock").exists()
    assert verify(open_forest(out)) == []
    assert not (tmp_path / ".out.partial").exists()
    _, message = malt(hub, "pull", REPO, "--out", out, code=1)
    assert "already exists" in message


def test_the_token_is_in_no_file_and_no_output(lfs: Hub, forest: Forest) -> None:
    out, message = malt(lfs, "push", forest.folder, REPO)
    assert "hf_writer" not in str(out) + message
    for content in [*local(forest.folder).values(), *lfs.files("dataset", REPO, "main").values()]:
        assert b"hf_writer" not in content
    for path in forest.folder.rglob(".*"):
        if path.is_file():
            assert b"hf_writer" not in path.read_bytes()


def test_a_full_disk_while_pulling(lfs: Hub, forest: Forest, tmp_path: Path) -> None:
    rewrite(forest, [os.urandom(300).hex() for _ in range(97)])
    malt(lfs, "push", forest.folder, REPO)
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "from malt_data.cli import main\n"
        f"main(['pull', {REPO!r}, '--out', {str(tmp_path / 'out')!r}])"
    )
    environment = lfs.environment(tmp_path / "full", token="hf_writer")
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "could not be read or written" in run.stderr
    assert "free disk space" in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    malt(lfs, "pull", REPO, "--out", tmp_path / "out", home="full")
    assert local(tmp_path / "out") == local(forest.folder)


def test_the_default_selection_is_the_papers() -> None:
    assert Selection() == Selection(strategy="all", positives="all", margin=0)
    assert User("ann").write is False
