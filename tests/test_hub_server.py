"""The test Hub works if the real clients get back what they upload, by both upload paths.

Every client is a fresh process, for huggingface_hub and datasets read their environment when they
are imported. A client prints what it saw as JSON, and the test compares that with what it wrote.
"""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub, User

pytestmark = pytest.mark.slow

NAME = "ann/x"
README = """---
license: apache-2.0
configs:
- config_name: first
  data_files:
  - split: train
    path: first/train.parquet
  - split: test
    path: first/test.parquet
- config_name: second
  data_files:
  - split: train
    path: second/train.parquet
---
# Sums
"""
PRELUDE = """
import json, sys
from pathlib import Path
from huggingface_hub import (
    CommitOperationAdd as Add, CommitOperationDelete as Delete, HfApi, HfFileSystem,
    hf_hub_download, snapshot_download,
)
from huggingface_hub.errors import HfHubHTTPError
api, name = HfApi(), "ann/x"

def say(**seen):
    print(json.dumps(seen), file=sys.stdout)

def commit(*operations, title="change", **options):
    return api.create_commit(
        name, operations, commit_message=title, repo_type="dataset", **options
    )

def adds(folder):
    files = sorted(f for f in Path(folder).rglob("*") if f.is_file())
    return [Add(f.relative_to(folder).as_posix(), f) for f in files]

def refused(call, *args, **options):
    try:
        call(*args, **options)
    except Exception as error:
        response = getattr(error, "response", None)
        return [type(error).__name__, getattr(response, "status_code", None), str(error)]
    return None
"""


def start(
    hub: Hub, home: Path, code: str, *args: object, token: str | None = "hf_writer"
) -> subprocess.Popen[str]:
    program = PRELUDE + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        env=hub.environment(home, token),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def seen_by(client: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the last line that a client printed."""
    out, err = client.communicate(timeout=60)
    assert client.returncode == 0, err
    return json.loads(out.splitlines()[-1])  # type: ignore[no-any-return]


def run(hub: Hub, home: Path, code: str, *args: object, **options: Any) -> dict[str, Any]:
    return seen_by(start(hub, home, code, *args, **options))


def write_table(file: Path, rows: int, step: int = 1, label: str = "a") -> None:
    """Write numbers that compress badly, and a last column that does not depend on them."""
    numbers = [i * step * 7919 % 1_000_003 for i in range(rows)]
    table = pa.table({"n": numbers, "text": [f"sum {n}" for n in numbers], "label": [label] * rows})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, use_content_defined_chunking=True)


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.fixture(params=[False, True], ids=["lfs", "xet"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub", xet=request.param) as hub:
        yield hub


@pytest.fixture
def lfs_hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of Parquet files, and a README that makes two configs of them."""
    folder = tmp_path / "data"
    write_table(folder / "first/train.parquet", 9000)
    write_table(folder / "first/test.parquet", 30, step=3)
    write_table(folder / "second/train.parquet", 500, step=5)
    (folder / "README.md").write_text(README)
    return folder


PUSH = """
    api.create_repo(name, repo_type="dataset", exist_ok=True)
    done = commit(*adds(sys.argv[1]), title="push")
    say(oid=done.oid, url=str(done))
"""


def test_a_dataset_round_trips_through_every_client(hub: Hub, data: Path, tmp_path: Path) -> None:
    pushed = run(hub, tmp_path / "home", PUSH, data)

    wrote = contents(data)
    stored = hub.files("dataset", NAME)
    assert {path: stored[path] for path in wrote} == wrote
    assert set(stored) - set(wrote) == {".gitattributes"}
    newest, oldest = hub.commits("dataset", NAME)
    assert (newest.oid, newest.title, newest.who) == (pushed["oid"], "push", "ann")
    assert newest.parent == oldest.oid
    paths = [path for _, path in hub.requests]
    assert any("/xorbs/" in path for path in paths) == hub.xet
    assert any(path.endswith("/objects/batch") for path in paths) != hub.xet

    seen = run(
        hub,
        tmp_path / "empty",
        """
        import duckdb
        from datasets import load_dataset
        one = Path(hf_hub_download(name, "first/train.parquet", repo_type="dataset"))
        whole = Path(snapshot_download(name, repo_type="dataset"))
        (Path(sys.argv[1])).write_bytes(one.read_bytes())
        fs = HfFileSystem()
        con = duckdb.connect()
        con.register_filesystem(fs)
        query = "select count(*), sum(n) from 'hf://datasets/ann/x/first/*.parquet'"
        first = load_dataset(name, "first")
        say(
            files={f.relative_to(whole).as_posix(): f.read_bytes().hex()
                   for f in whole.rglob("*") if f.is_file()},
            commit=whole.name,
            read=fs.cat_file("datasets/ann/x/second/train.parquet").hex(),
            middle=fs.cat_file("datasets/ann/x/README.md", start=4, end=11).decode(),
            sums=con.sql(query).fetchall(),
            splits={split: rows.to_list() for split, rows in first.items()},
            second=load_dataset(name, "second", split="train[:3]").to_list(),
        )
        """,
        tmp_path / "one",
    )

    assert (tmp_path / "one").read_bytes() == wrote["first/train.parquet"]
    assert {path: bytes.fromhex(content) for path, content in seen["files"].items()} == stored
    assert seen["commit"] == newest.oid
    assert bytes.fromhex(seen["read"]) == wrote["second/train.parquet"]
    assert seen["middle"] == "license"
    tables = {f: pq.read_table(data / f"{f}.parquet").to_pylist() for f in _tables(data)}
    both = [row["n"] for f in ("first/train", "first/test") for row in tables[f]]
    assert seen["sums"] == [[len(both), sum(both)]]
    assert seen["splits"] == {"train": tables["first/train"], "test": tables["first/test"]}
    assert seen["second"] == tables["second/train"][:3]


def _tables(data: Path) -> Sequence[str]:
    return [f.relative_to(data).with_suffix("").as_posix() for f in data.rglob("*.parquet")]


def test_unchanged_files_are_not_uploaded_again(hub: Hub, data: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = run(hub, home, PUSH, data)
    assert hub.uploaded > (data / "README.md").stat().st_size
    before, stored = hub.uploaded, hub.stored()
    (data / "README.md").write_text(README + "More.\n")

    run(
        hub,
        home,
        """
        files = [add for add in adds(sys.argv[1]) if not add.path_in_repo.startswith("second/")]
        say(oid=commit(*files, Delete("second/", is_folder=True), title="again").oid)
        """,
        data,
    )

    assert hub.uploaded - before == len(README + "More.\n")
    assert hub.stored() == stored
    newest = hub.commits("dataset", NAME)[0]
    assert newest.parent == first["oid"]
    kept = {".gitattributes", "README.md", "first/test.parquet", "first/train.parquet"}
    assert set(newest.tree) == kept
    assert "second/train.parquet" in hub.files("dataset", NAME, first["oid"])

    bodies = zip(hub.requests, hub.bodies, strict=True)
    body = [body for (_, path), body in bodies if path.endswith("/commit/main")][-1]
    keys = [json.loads(line)["key"] for line in body.splitlines()]
    assert keys == ["header", "file", "deletedFolder"]


def test_a_stale_parent_is_refused_and_refs_keep_their_commits(
    lfs_hub: Hub, data: Path, tmp_path: Path
) -> None:
    first = run(lfs_hub, tmp_path / "home", PUSH, data)
    write_table(data / "first/train.parquet", 10, step=11)
    seen = run(
        lfs_hub,
        tmp_path / "home",
        """
        from datasets import load_dataset
        first = sys.argv[2]
        api.create_tag(name, tag="v1", repo_type="dataset", tag_message="one")
        again = refused(api.create_tag, name, tag="v1", repo_type="dataset")
        api.create_branch(name, branch="work", repo_type="dataset")
        second = commit(*adds(sys.argv[1]), title="second", parent_commit=first).oid
        stale = refused(commit, Add("late.txt", b"late"), parent_commit=first)
        on_branch = commit(Add("b.txt", b"branch"), revision="work")
        pull = commit(Add("p.txt", b"pull"), create_pr=True)
        commit(Add("q.txt", b"pull"), revision=pull.pr_revision)
        refs = api.list_repo_refs(name, repo_type="dataset", include_pull_requests=True)
        api.create_tag(name, tag="gone", repo_type="dataset", revision=first)
        api.delete_tag(name, tag="gone", repo_type="dataset")
        tag = load_dataset(name, "first", split="train", revision="v1")
        say(
            second=second, stale=stale, again=again, pull=pull.pr_revision, pull_oid=pull.oid,
            branches={b.name: b.target_commit for b in refs.branches},
            tags={t.name: t.target_commit for t in refs.tags},
            pulls=[p.ref for p in refs.pull_requests],
            commits=[c.title for c in api.list_repo_commits(name, repo_type="dataset")],
            rows=[len(tag), len(load_dataset(name, "first", split="train"))],
            tagged=api.dataset_info(name, revision="v1").sha,
            missing=refused(api.dataset_info, name, revision="v9"),
            no_file=refused(hf_hub_download, name, "none.txt", repo_type="dataset"),
        )
        """,
        data,
        first["oid"],
    )

    assert seen["stale"][:2] == ["HfHubHTTPError", 412]
    assert seen["again"][:2] == ["HfHubHTTPError", 409]
    assert seen["commits"] == ["second", "push", "initial commit"]
    assert seen["branches"]["main"] == seen["second"] != first["oid"]
    assert seen["tags"] == {"v1": first["oid"]}
    assert seen["tagged"] == first["oid"]
    assert (seen["pull"], seen["pulls"]) == ("refs/pr/1", ["refs/pr/1"])
    assert seen["rows"] == [9000, 10]
    assert seen["missing"][:2] == ["RevisionNotFoundError", 404]
    assert seen["no_file"][:2] == ["RemoteEntryNotFoundError", 404]
    assert "late.txt" not in lfs_hub.files("dataset", NAME)
    assert lfs_hub.files("dataset", NAME, "work")["b.txt"] == b"branch"
    pull = lfs_hub.files("dataset", NAME, "refs/pr/1")
    assert (pull["p.txt"], pull["q.txt"]) == (b"pull", b"pull")
    assert "p.txt" not in lfs_hub.files("dataset", NAME)
    assert lfs_hub.commits("dataset", NAME, "refs/pr/1")[1].oid == seen["pull_oid"]


def test_a_model_folder_round_trips(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 700)
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "sub/big.txt").write_text("large by its size\n" * 9000)
    (folder / "empty.txt").touch()
    seen = run(
        hub,
        tmp_path / "home",
        """
        api.create_repo("ann/m", private=True)
        api.upload_folder(folder_path=sys.argv[1], repo_id="ann/m")
        whole = Path(snapshot_download("ann/m"))
        info = api.model_info("ann/m", files_metadata=True)
        large = sorted(s.rfilename for s in info.siblings if s.lfs)
        say(files=sorted(f.relative_to(whole).as_posix() for f in whole.rglob("*") if f.is_file()),
            same=all((whole / f.relative_to(sys.argv[1])).read_bytes() == f.read_bytes()
                     for f in Path(sys.argv[1]).rglob("*") if f.is_file()),
            large=large, private=info.private)
        """,
        folder,
    )
    assert seen["files"] == sorted([".gitattributes", *contents(folder)])
    assert seen["same"]
    assert seen["private"]
    assert seen["large"] == ["adapter_model.safetensors", "sub/big.txt"]
    stored = hub.files("model", "ann/m")
    assert {path: stored[path] for path in contents(folder)} == contents(folder)


def test_a_relabelled_table_is_mostly_deduplicated(tmp_path: Path) -> None:
    """Under Xet alone, and for a client that has never seen the first version."""
    with Hub(tmp_path / "hub", xet=True) as hub:
        file = tmp_path / "data/n.parquet"
        write_table(file, 40_000)
        run(hub, tmp_path / "one", PUSH, file.parent)
        whole = hub.stored()
        write_table(file, 40_000, label="b")
        run(hub, tmp_path / "two", PUSH, file.parent)
        assert 0 < hub.stored() - whole < whole / 4
        assert hub.files("dataset", NAME)["n.parquet"] == file.read_bytes()


def test_clients_may_push_at_the_same_time(hub: Hub, tmp_path: Path) -> None:
    clients = []
    for i in range(3):
        write_table(tmp_path / f"{i}/part{i}.parquet", 2000, step=i + 2)
        clients.append(start(hub, tmp_path / f"home{i}", PUSH, tmp_path / f"{i}"))
    oids = {seen_by(client)["oid"] for client in clients}
    assert {c.oid for c in hub.commits("dataset", NAME)[:-1]} == oids
    files = hub.files("dataset", NAME)
    for i in range(3):
        name = f"part{i}.parquet"
        assert files[name] == (tmp_path / f"{i}" / name).read_bytes()


def test_who_may_read_and_write(lfs_hub: Hub, tmp_path: Path) -> None:
    lfs_hub.tokens["hf_colleague"] = User("cleo", write=True)
    lfs_hub.tokens["hf_look"] = User("ann")
    lfs_hub.tokens["hf_team"] = User("dora", write=True, orgs=("ann",))
    run(
        lfs_hub,
        tmp_path / "home",
        """
        api.create_repo(name, repo_type="dataset", private=True)
        api.create_repo("ann/open", repo_type="dataset")
        commit(Add("a.txt", b"a"))
        say()
        """,
    )
    code = """
        def tried(token):
            api = HfApi(token=token)
            add = [Add("b.txt", b"b")]
            write = dict(repo_type="dataset", commit_message="b")
            return [
                (refused(call, *args, **options) or ["fine", 200])[:2]
                for call, args, options in [
                    (api.whoami, [], {}),
                    (api.dataset_info, [name], {}),
                    (api.hf_hub_download, [name, "a.txt"],
                     dict(repo_type="dataset", cache_dir=f"{sys.argv[1]}/{token}")),
                    (api.dataset_info, ["ann/open"], {}),
                    (api.create_commit, ["ann/open", add], write),
                    (api.create_repo, ["ann/new"], dict(repo_type="dataset", exist_ok=True)),
                    (api.auth_check, ["ann/open"], dict(repo_type="dataset", write=True)),
                    (api.dataset_info, ["ann/none"], {}),
                ]
            ]
        say(**{token or "none": tried(token)
               for token in [False, "hf_reader", "hf_colleague", "hf_look", "hf_team", "hf_wrong"]})
    """
    seen = run(lfs_hub, tmp_path / "other", code, tmp_path / "caches", token=None)
    hidden, gone = ["RepositoryNotFoundError", 401], ["RepositoryNotFoundError", 404]
    wrong, forbidden = ["HfHubHTTPError", 401], ["HfHubHTTPError", 403]
    fine = ["fine", 200]
    outsider = [fine, gone, gone, fine, forbidden, forbidden, forbidden, gone]
    assert seen == {
        "none": [["ValueError", None], hidden, hidden, fine, hidden, wrong, hidden, hidden],
        "hf_reader": outsider,
        "hf_colleague": outsider,
        "hf_look": [*[fine] * 4, forbidden, forbidden, forbidden, gone],
        "hf_team": [*[fine] * 7, gone],
        "hf_wrong": [wrong] * 8,
    }
    assert lfs_hub.repos() == [("dataset", "ann/new"), ("dataset", "ann/open"), ("dataset", NAME)]
    assert lfs_hub.commits("dataset", "ann/open")[0].who == "dora"


def test_faults_occur_as_configured(lfs_hub: Hub, tmp_path: Path) -> None:
    run(lfs_hub, tmp_path / "home", 'api.create_repo(name, repo_type="dataset"); say()')
    lfs_hub.fail(method="POST", path="/commit/", status=503, headers={"Retry-After": "0"})
    lfs_hub.fail(method="POST", path="/commit/", close=True)
    lfs_hub.fail(method="POST", path="/commit/", late=True)
    lfs_hub.fail(method="POST", path="/commit/", status=429, after=1)
    lfs_hub.fail(method="POST", path="/preupload/", status=503, headers={"Retry-After": "0"})
    seen = run(
        lfs_hub,
        tmp_path / "home",
        """
        tries = [refused(commit, Add(f"{i}.txt", b"x"), title=f"{i}") for i in range(6)]
        say(tries=[(t or ["fine", 200])[:2] for t in tries])
        """,
    )
    closed = ["RemoteProtocolError", None]
    fine = ["fine", 200]
    tries = [["HfHubHTTPError", 503], closed, closed, fine, ["HfHubHTTPError", 429], fine]
    assert seen["tries"] == tries
    titles = [commit.title for commit in lfs_hub.commits("dataset", NAME)]
    assert titles == ["5", "3", "2", "initial commit"]
    assert [path for _, path in lfs_hub.requests].count("/api/datasets/ann/x/preupload/main") == 7


def test_a_readme_with_invalid_yaml_is_refused(lfs_hub: Hub, tmp_path: Path) -> None:
    seen = run(
        lfs_hub,
        tmp_path / "home",
        """
        api.create_repo(name, repo_type="dataset")
        bad = refused(commit, Add("README.md", b"---\\na: [1\\n---\\n"))
        good = refused(commit, Add("README.md", b"---\\nlicense: mit\\n---\\n"))
        say(bad=bad, good=good, card=api.dataset_info(name).card_data.to_dict())
        """,
    )
    assert seen["bad"][0] == "ValueError"
    assert "Invalid metadata in README.md" in seen["bad"][2]
    assert seen["good"] is None
    assert seen["card"] == {"license": "mit"}


def test_a_tree_is_listed_in_pages_with_the_last_commits(hub: Hub, tmp_path: Path) -> None:
    hub.page = 2
    data = tmp_path / "data"
    write_table(data / "p/q/t.parquet", 100)
    for i in range(4):
        (data / f"p/{i}.txt").write_text(f"{i}")
    seen = run(
        hub,
        tmp_path / "home",
        """
        api.create_repo(name, repo_type="dataset")
        commit(*adds(sys.argv[1]), title="push")
        commit(Add("p/3.txt", b"new"), Delete("p/0.txt"), title="change")
        tree = list(api.list_repo_tree(name, repo_type="dataset", recursive=True, expand=True))
        flat = api.list_repo_tree(name, "p", repo_type="dataset")
        info = api.get_paths_info(name, ["p/q/t.parquet", "p", "none"], repo_type="dataset")
        table = info[0]
        say(last={e.path: e.last_commit.title for e in tree}, flat=[e.path for e in flat],
            info=[e.path for e in info], size=table.size, sha256=table.lfs.sha256,
            xet=table.xet_hash is not None, exists=api.file_exists(name, "p", repo_type="dataset"))
        api.delete_repo(name, repo_type="dataset")
        """,
        data,
    )
    changed = {"p": "change", "p/3.txt": "change", ".gitattributes": "initial commit"}
    same = dict.fromkeys(["p/1.txt", "p/2.txt", "p/q", "p/q/t.parquet"], "push")
    assert seen["last"] == changed | same
    assert seen["flat"] == ["p/1.txt", "p/2.txt", "p/3.txt", "p/q"]
    assert seen["info"] == ["p/q/t.parquet", "p"]
    assert seen["size"] == (data / "p/q/t.parquet").stat().st_size
    assert seen["xet"] == hub.xet
    assert not seen["exists"]
    assert hub.repos() == []
