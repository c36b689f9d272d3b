"""A small Hugging Face Hub on 127.0.0.1 for the real clients, with what the project uses.

It speaks the Hub's protocol over both upload paths: LFS, and Xet with a small CAS of its own
(hf_xet's `local://DIR` locks its folder to one process at a time, so two clients, or a client and
this server, could not share it). What is uploaded is checked: a file whose
bytes do not have the sha256 that the commit names is a refusal. Test the server by the real clients
only, each in a process of its own, because they read their environment when imported:

    with Hub(tmp_path) as hub:
        hub.tokens["hf_writer"] = User("ann", write=True)
        hub.fail(method="POST", path=r"/commit/", status=503)
        subprocess.run([sys.executable, "-c", code], env=hub.environment(home), check=True)
        assert hub.files("dataset", "ann/x")["README.md"] == b"# x"

It stays one module, though a long one: a route is read best next to the state it changes.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import yaml

LFS_NAMES = (".parquet", ".safetensors")
NO_USER = "Invalid username or password."
SHARD_MARK = b"\xff" * 32 + bytes(16)  # ends a section
Term = tuple[str, int, int, int]  # a part of a file: xorb, its chunks from-to, bytes


@dataclass(frozen=True)
class User:
    """The owner of a token. `write`: it can write to the repos of the user and of `orgs`."""

    name: str
    write: bool = False
    orgs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blob:
    """A file: in git (`content`), or large and stored by `sha256`, where `oid` is its pointer's."""

    oid: str
    size: int
    sha256: str | None = None
    content: bytes | None = None


@dataclass(frozen=True)
class Commit:
    """One commit, with the whole tree after it."""

    oid: str
    title: str
    message: str
    parent: str | None
    who: str
    date: str
    tree: Mapping[str, Blob]


@dataclass
class Repo:
    """Refs are whole names: refs/heads/main, refs/tags/v1, refs/pr/1."""

    kind: str
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.name if self.kind == "model" else f"{self.kind}s/{self.name}"


@dataclass(kw_only=True)
class Fault:
    """Let matching requests fail: the first `after` of them pass, the next `times` do not.

    They are answered with `status`; or not at all (`close`); or they are carried out and the
    connection is closed before the answer (`late`). `method` and `path` are regular expressions.
    """

    method: str = ".*"
    path: str = ""
    status: int = 503
    times: int = 1
    after: int = 0
    close: bool = False
    late: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A received request; `target` is its quoted path without the query."""

    method: str
    target: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    groups: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        return json.loads(self.body)

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")


@dataclass(frozen=True)
class Answer:
    """`content`: bytes, or a value to send as JSON (without spaces, for DuckDB's parser)."""

    content: object = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        if isinstance(self.content, bytes):
            return self.content
        return json.dumps(self.content, separators=(",", ":")).encode()


class RefusedError(Exception):
    """An error response in the form of the Hub's, with headers and body."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        named = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer = Answer({"error": message}, status, {**named, **extra})


class Hub:
    """See the module. Every public attribute may be changed while it runs.

    tokens: who a token is. xet: whether files are offered through Xet. page: entries of a page of
    the tree. regular: the bytes above which any file is large. requests: (method, path) in the
    order of arrival, and `bodies` beside them. uploaded: bytes of file content received, through
    the commits, LFS and Xet's xorbs together.
    """

    def __init__(self, folder: Path, *, xet: bool = False) -> None:
        self.tokens = {"hf_writer": User("ann", write=True), "hf_reader": User("bob")}
        self.xet = xet
        self.page = 1000
        self.regular = 100_000
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.uploaded = 0
        self.port = 0
        self._repos: dict[tuple[str, str], Repo] = {}
        self.faults: list[Fault] = []
        self._errors: list[str] = []
        self._lock = threading.RLock()
        self._objects, self._xorbs = folder / "objects", folder / "xorbs"
        self._xet_hashes: dict[str, str] = {}  # of a sha256
        self._terms: dict[str, list[Term]] = {}  # of a Xet hash
        self._known: dict[str, bytes] = {}  # by the hash of a chunk, the shard that tells of it
        for made in (self._objects, self._xorbs):
            made.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cdn(self) -> str:
        """URL of large files, on another host name, so that clients do not send their token."""
        return f"http://localhost:{self.port}/cdn"

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        if kind is None and self._errors:
            raise RuntimeError("the test server itself failed:\n" + "\n".join(self._errors))

    def environment(self, home: Path, token: str | None = "hf_writer") -> dict[str, str]:
        """Return an environment in which clients only use this Hub, with caches in `home`."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            kept.pop(name, None)
            kept.pop(name.upper(), None)
        environment = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            **({"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}),
            **({} if self.xet else {"HF_HUB_DISABLE_XET": "1"}),
        }
        return kept | environment

    def fail(self, **fault: Any) -> None:
        """Add a fault; see `Fault`."""
        self.faults.append(Fault(**fault))

    def commits(self, kind: str, name: str, revision: str = "main") -> list[Commit]:
        """Return the commits of a revision, newest first."""
        repo = self._repos[kind, name]
        return list(_history(repo, _resolve(repo, revision)))

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        repo = self._repos[kind, name]
        return {path: self._content(blob) for path, blob in _resolve(repo, revision).tree.items()}

    def repos(self) -> list[tuple[str, str]]:
        return sorted(self._repos)

    def stored(self) -> int:
        """Return the size of all large files: LFS objects and Xet's xorbs."""
        places = (self._objects, self._xorbs)
        return sum(file.stat().st_size for place in places for file in place.iterdir())

    # -- one request ---------------------------------------------------------------------------

    def respond(self, request: Request) -> Answer | None:
        """Return the response; None closes the connection without one."""
        with self._lock:
            self.requests.append((request.method, request.target))
            self.bodies.append(request.body)
            fault = self._next_fault(request)
        if fault is None:
            return self._answer(request)
        if fault.late:
            self._answer(request)
        if fault.close or fault.late:
            return None
        return Answer({"error": "injected fault"}, fault.status, fault.headers)

    def _next_fault(self, request: Request) -> Fault | None:
        for fault in self.faults:
            named = re.fullmatch(fault.method, request.method)
            if fault.times == 0 or not named or not re.search(fault.path, request.target):
                continue
            if fault.after:
                fault.after -= 1
                continue
            fault.times -= 1
            return fault
        return None

    def _answer(self, request: Request) -> Answer:
        try:
            for methods, pattern, handle in ROUTES:
                match = re.fullmatch(pattern, request.target)
                if match and request.method in methods.split():
                    groups = {k: unquote(v) for k, v in match.groupdict("").items()}
                    with self._lock:
                        return handle(self, Request(**{**vars(request), "groups": groups}))
            raise RefusedError(404, f"no such route: {request.method} {request.target}")
        except RefusedError as refused:
            return refused.answer
        except Exception:  # noqa: BLE001 - told by __exit__, for it is a bug of ours
            self._errors.append(traceback.format_exc())
            return Answer({"error": "the test server failed"}, 500)

    def _user(self, request: Request) -> User | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return self.tokens.get(token)

    def _writer(self, request: Request, owner: str | None = None) -> User:
        user = self._user(request)
        if user is None:
            raise RefusedError(401, NO_USER)
        if not user.write:
            raise RefusedError(403, "Forbidden: you must use a write token.")
        if owner not in (None, user.name, *user.orgs):
            raise RefusedError(403, "Forbidden: you don't have the rights for this namespace.")
        return user

    def _repo(self, request: Request) -> Repo:
        """Return the repo of a path, if the user can read it."""
        kind = request.groups.get("kind", "model").removesuffix("s") or "model"
        repo, user = self._repos.get((kind, request.groups["id"])), self._user(request)
        allowed = (user.name, *user.orgs) if user else ()
        if repo is None or (repo.private and repo.name.split("/")[0] not in allowed):
            status, output = (404, "Repository not found") if user else (401, NO_USER)
            raise RefusedError(status, output, "RepoNotFound")
        return repo

    def _own_repo(self, request: Request) -> Repo:
        """Return the repo of a path, if the user can write to it."""
        repo = self._repo(request)
        # Whoever may read a repo may propose changes to it.
        proposed = request.flag("create_pr") or request.groups.get("rev", "").startswith("refs/pr/")
        if self._user(request) is None:
            # Clients take any 401 of an https URL of a repo for RepositoryNotFoundError. This is
            # http, so it needs the code for it.
            raise RefusedError(401, NO_USER, "RepoNotFound")
        self._writer(request, None if proposed else repo.name.split("/")[0])
        return repo

    # -- repos and refs ------------------------------------------------------------------------

    def _whoami(self, request: Request) -> Answer:
        user = self._user(request)
        if user is None:
            raise RefusedError(401, NO_USER)
        role = "write" if user.write else "read"
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        orgs = [{"type": "org", "name": name} for name in user.orgs]
        return Answer({"type": "user", "name": user.name, "orgs": orgs, "auth": auth})

    def _validate_yaml(self, request: Request) -> Answer:
        try:
            _card_data(request.json()["content"].encode())
        except yaml.YAMLError as error:
            return Answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return Answer({"errors": [], "warnings": []})

    def _create(self, request: Request) -> Answer:
        asked = request.json()
        name = f"{asked.get('organization') or self._writer(request).name}/{asked['name']}"
        user = self._writer(request, name.split("/")[0])
        kind = asked.get("type", "model")
        repo = Repo(kind, name, asked.get("visibility") == "private")
        url = f"{self.url}/{repo.path}"
        if (kind, name) in self._repos:
            output = f"You already created this {kind} repo"
            return Answer({"error": output, "url": url}, 409, {"X-Error-Message": output})
        self._repos[kind, name] = repo
        attributes = b"".join(b"*%s filter=lfs -text\n" % end.encode() for end in LFS_NAMES)
        tree = {".gitattributes": _git_blob(attributes)}
        _add_commit(repo, "refs/heads/main", None, "initial commit", "", user.name, tree)
        return Answer({"url": url, "name": name, "id": name})

    def _delete(self, request: Request) -> Answer:
        asked = request.json()
        owner = asked.get("organization") or self._writer(request).name
        self._writer(request, owner)
        if not self._repos.pop((asked.get("type", "model"), f"{owner}/{asked['name']}"), None):
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        return Answer(b"OK")

    def _info(self, request: Request) -> Answer:
        repo = self._repo(request)
        head = _resolve(repo, request.groups.get("rev") or "main")
        siblings = [
            {"rfilename": path, **(_blob_info(blob) if request.flag("blobs") else {})}
            for path, blob in head.tree.items()
        ]
        readme = head.tree.get("README.md")
        info = {
            "_id": hashlib.md5(repo.path.encode()).hexdigest()[:24],
            "id": repo.name,
            "author": repo.name.split("/")[0],
            "sha": head.oid,
            "lastModified": head.date,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
            "cardData": _card_data(self._content(readme)) if readme else {},
        }
        return Answer(info)

    def _auth_check(self, request: Request) -> Answer:
        if request.target.endswith("/write"):
            self._own_repo(request)
        self._repo(request)
        return Answer({"status": "ok"})

    def _list_refs(self, request: Request) -> Answer:
        repo = self._repo(request)

        def listed(prefix: str, shown: int) -> list[dict[str, str]]:
            return [
                {"name": ref[shown:], "ref": ref, "targetCommit": oid}
                for ref, oid in repo.refs.items()
                if ref.startswith(prefix)
            ]

        refs = {"branches": listed("refs/heads/", 11), "tags": listed("refs/tags/", 10)}
        pulls = {"pullRequests": listed("refs/pr/", 0)} if request.flag("include_prs") else {}
        return Answer({**refs, "converts": [], **pulls})

    def _list_commits(self, request: Request) -> Answer:
        repo = self._repo(request)
        listed = [
            {
                "id": commit.oid,
                "title": commit.title,
                "message": commit.message,
                "date": commit.date,
                "authors": [{"user": commit.who}],
                "parents": [commit.parent] if commit.parent else [],
            }
            for commit in _history(repo, _resolve(repo, request.groups["rev"]))
        ]
        return Answer(listed)

    def _change_ref(self, request: Request) -> Answer:
        repo = self._own_repo(request)
        name = request.groups["ref"]
        branch = "/branch/" in request.target
        if request.method == "DELETE":
            ref = f"refs/{'heads' if branch else 'tags'}/{name}"
            if repo.refs.pop(ref, None) is None:
                raise RefusedError(404, f"Reference not found: {name}", "RevisionNotFound")
            return Answer(b"OK")
        asked = request.json()
        ref = f"refs/heads/{name}" if branch else f"refs/tags/{asked['tag']}"
        start = asked.get("startingPoint", "main") if branch else name
        if ref in repo.refs:
            raise RefusedError(409, f"Reference already exists: {ref}")
        repo.refs[ref] = _resolve(repo, start).oid
        return Answer(b"OK")

    # -- what is in a revision -----------------------------------------------------------------

    def _tree(self, request: Request) -> Answer:
        repo = self._repo(request)
        head = _resolve(repo, request.groups["rev"])
        prefix, deep = request.groups.get("path", ""), request.flag("recursive")
        found = [
            path
            for path in _paths(head.tree)
            if _is_in(path, prefix) and (deep or str(PurePosixPath(path).parent) == (prefix or "."))
        ]
        if prefix and not found:
            raise _no_entry(prefix, head)
        start = int(request.query.get("cursor", ["0"])[0])
        some = found[start : start + self.page]
        headers = {}
        if start + self.page < len(found):
            asked = "&".join(f"{k}={v[0]}" for k, v in request.query.items() if k != "cursor")
            target = f"{self.url}{request.target}?{asked}&cursor={start + self.page}"
            headers["Link"] = f'<{target}>; rel="next"'
        expand = request.flag("expand")
        return Answer([self._entry(repo, head, path, expand) for path in some], 200, headers)

    def _paths_info(self, request: Request) -> Answer:
        repo = self._repo(request)
        head = _resolve(repo, request.groups["rev"])
        form = parse_qs(request.body.decode())
        known = set(_paths(head.tree))
        expand = form.get("expand", [""])[0].lower() == "true"
        asked = [path.rstrip("/") for path in form.get("paths", [])]
        return Answer([self._entry(repo, head, p, expand) for p in asked if p in known])

    def _entry(self, repo: Repo, head: Commit, path: str, expand: bool) -> dict[str, Any]:
        within = {p: b.oid for p, b in head.tree.items() if p == path or _is_in(p, path)}
        blob = head.tree.get(path)
        last = {}
        if expand:  # the commit before which this path was not yet what it is
            commit = head
            for older in _history(repo, head):
                if {p: b.oid for p, b in older.tree.items() if p in within} != within:
                    break
                commit = older
            date = {"id": commit.oid, "title": commit.title, "date": commit.date}
            last = {"lastCommit": date}
        if blob is None:
            oid = hashlib.sha1(repr(sorted(within.items())).encode()).hexdigest()
            return {"type": "directory", "oid": oid, "size": 0, "path": path, **last}
        entry = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path, **last}
        if blob.sha256:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
            if self.xet and blob.sha256 in self._xet_hashes:
                entry["xetHash"] = self._xet_hashes[blob.sha256]
        return entry

    def _resolve_file(self, request: Request) -> Answer:
        repo = self._repo(request)
        head = _resolve(repo, request.groups["rev"])
        path = request.groups["path"]
        blob = head.tree.get(path)
        if blob is None:
            raise _no_entry(path, head)
        headers = {"X-Repo-Commit": head.oid, "ETag": f'"{blob.oid}"'}
        if blob.content is not None:
            return _ranged(request, blob.content, headers)
        headers |= {
            "X-Linked-ETag": f'"{blob.sha256}"',
            "X-Linked-Size": str(blob.size),
            "Location": f"{self.cdn}/{blob.sha256}",
        }
        xet_hash = self._xet_hashes.get(blob.sha256 or "")
        if self.xet and xet_hash:
            token = f"{self.url}/api/{repo.kind}s/{repo.name}/xet-read-token/{head.oid}"
            headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
        return Answer(b"Found. Redirecting", 302, headers)

    # -- uploads and commits -------------------------------------------------------------------

    def _preupload(self, request: Request) -> Answer:
        repo = self._own_repo(request)
        tree = _resolve(repo, request.groups["rev"]).tree
        files = []
        for file in request.json()["files"]:
            path = file["path"]
            large = path.endswith(LFS_NAMES) or file["size"] > self.regular
            entry = {"path": path, "uploadMode": "lfs" if large else "regular"}
            if path in tree:
                entry["oid"] = tree[path].sha256 or tree[path].oid
            files.append({**entry, "shouldIgnore": False})
        return Answer({"files": files})

    def _commit(self, request: Request) -> Answer:
        repo = self._own_repo(request)
        user = self._writer(request)
        revision = request.groups["rev"]
        ref = revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"
        if ref not in repo.refs:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repo.commits[repo.refs[ref]]
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", head.oid) != head.oid:
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(head.tree)
        for line in lines[1:]:
            self._change(tree, line["key"], line["value"], head)
        pull = {}
        if request.flag("create_pr"):
            number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
            ref = f"refs/pr/{number}"
            pull = {"pullRequestUrl": f"{self.url}/{repo.path}/discussions/{number}"}
        title, message = header["summary"], header.get("description", "")
        oid = _add_commit(repo, ref, head, title, message, user.name, tree)
        url = f"{self.url}/{repo.path}/commit/{oid}"
        return Answer({"success": True, "commitUrl": url, "commitOid": oid, **pull})

    def _change(self, tree: dict[str, Blob], key: str, value: Any, head: Commit) -> None:
        path = value["path"]
        match key:
            case "file":
                content = base64.b64decode(value["content"])
                self.uploaded += len(content)
                tree[path] = _git_blob(content)
            case "lfsFile":
                blob = _large_blob(value["oid"], value.get("size") or self._size(value["oid"]))
                if hashlib.sha256(self._content(blob)).hexdigest() != value["oid"]:
                    raise RefusedError(400, f"{path} has another sha256 than the commit says")
                tree[path] = blob
            case "deletedFile":
                if tree.pop(path, None) is None:
                    raise _no_entry(path, head, "A file with this name doesn't exist")
            case "deletedFolder":
                within = [name for name in tree if _is_in(name, path.rstrip("/"))]
                if not within:
                    raise _no_entry(path, head, "A folder with this name doesn't exist")
                for name in within:
                    del tree[name]
            case _:
                raise RefusedError(400, f"Invalid key: {key}")

    def _lfs_batch(self, request: Request) -> Answer:
        repo = self._own_repo(request)
        objects = []
        for item in request.json()["objects"]:
            entry: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if not self._has(item["oid"]):
                verify = f"{self.url}/{repo.path}.git/info/lfs/objects/verify"
                upload = f"{self.cdn}/{item['oid']}"
                entry["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            objects.append(entry)
        return Answer({"transfer": "basic", "objects": objects})

    def _lfs_verify(self, request: Request) -> Answer:
        self._own_repo(request)
        asked = request.json()
        if not self._has(asked["oid"]) or self._size(asked["oid"]) != asked["size"]:
            raise RefusedError(404, "Object not found")
        return Answer({})

    def _cdn(self, request: Request) -> Answer:
        if "authorization" in request.headers:  # as S3 does: its URLs are signed already
            raise RefusedError(400, "Only one auth mechanism allowed")
        sha256 = request.groups["oid"]
        if request.method == "PUT":
            if hashlib.sha256(request.body).hexdigest() != sha256:
                raise RefusedError(400, "The content does not have this sha256")
            self.uploaded += len(request.body)
            (self._objects / sha256).write_bytes(request.body)
            return Answer()
        content = self._content(_large_blob(sha256, self._size(sha256)))
        return _ranged(request, content, {"ETag": f'"{sha256}"'})

    def _has(self, sha256: str) -> bool:
        return sha256 in self._xet_hashes or (self._objects / sha256).exists()

    def _size(self, sha256: str) -> int:
        if sha256 in self._xet_hashes:
            return sum(term[3] for term in self._terms[self._xet_hashes[sha256]])
        if not self._has(sha256):
            raise RefusedError(404, f"no such object: {sha256}", "EntryNotFound")
        return (self._objects / sha256).stat().st_size

    def _content(self, blob: Blob) -> bytes:
        if blob.content is not None:
            return blob.content
        sha256 = blob.sha256 or ""
        if not self._has(sha256):
            output = (
                "Your push was rejected because an LFS pointer points to a file that is missing"
            )
            raise RefusedError(400, output)
        if sha256 not in self._xet_hashes:
            return (self._objects / sha256).read_bytes()
        parts = []
        for xorb, first, end, _ in self._terms[self._xet_hashes[sha256]]:
            content = (self._xorbs / xorb).read_bytes()
            offsets = _chunk_offsets(content)
            parts += [_chunk(content, offset) for offset in offsets[first:end]]
        return b"".join(parts)

    # -- Xet: https://huggingface.co/docs/xet ----------------------------------------------------

    def _xet_token(self, request: Request) -> Answer:
        mode = request.groups["mode"]
        _ = self._own_repo(request) if mode == "write" else self._repo(request)
        credentials = {
            "casUrl": f"{self.url}/cas",
            "accessToken": mode,
            "exp": int(time.time()) + 3600,
        }
        headers = {
            "X-Xet-Cas-Url": str(credentials["casUrl"]),
            "X-Xet-Access-Token": mode,
            "X-Xet-Token-Expiration": str(credentials["exp"]),
        }
        return Answer(credentials, 200, headers)

    def _cas_token(self, request: Request, *modes: str) -> None:
        if request.headers.get("authorization") not in [f"Bearer {mode}" for mode in modes]:
            raise RefusedError(401, "Invalid Xet token")

    def _put_xorb(self, request: Request) -> Answer:
        self._cas_token(request, "write")
        file = self._xorbs / request.groups["hash"]
        new = not file.exists()
        self.uploaded += len(request.body)
        file.write_bytes(request.body)
        return Answer({"was_inserted": new})

    def _put_shard(self, request: Request) -> Answer:
        self._cas_token(request, "write")
        files, known = _read_shard(request.body)
        for xet_hash, sha256, terms in files:
            if any(not (self._xorbs / term[0]).exists() for term in terms):
                raise RefusedError(400, "The shard names a xorb that is not here")
            self._terms[xet_hash] = terms
            self._xet_hashes[sha256] = xet_hash
        self._known |= known
        return Answer({"result": 1})

    def _known_chunk(self, request: Request) -> Answer:
        """Answer whether a chunk already exists, with the shard that locates it."""
        self._cas_token(request, "read", "write")
        shard = self._known.get(request.groups["hash"])
        if shard is None:
            raise RefusedError(404, "no such chunk")
        return Answer(shard)

    def _reconstruction(self, request: Request) -> Answer:
        self._cas_token(request, "read", "write")
        terms = self._terms.get(request.groups["hash"])
        if terms is None:
            raise RefusedError(404, "no such file")
        size = sum(term[3] for term in terms)
        span = _span(request, size) or (0, size)
        requested: list[Term] = []
        at = skipped = 0
        for term in terms:
            if at < span[1] and at + term[3] > span[0]:
                skipped = skipped if requested else span[0] - at
                requested.append(term)
            at += term[3]
        fetch: dict[str, list[Any]] = {}
        for xorb, first, end, _ in requested:
            offsets = _chunk_offsets((self._xorbs / xorb).read_bytes())
            location = {
                "range": {"start": first, "end": end},
                "url": f"{self.cdn}/xorbs/{xorb}",
                "url_range": {"start": offsets[first], "end": offsets[end] - 1},
            }
            if location not in fetch.setdefault(xorb, []):
                fetch[xorb].append(location)
        listed = [
            {"hash": xorb, "unpacked_length": length, "range": {"start": first, "end": end}}
            for xorb, first, end, length in requested
        ]
        return Answer({"offset_into_first_range": skipped, "terms": listed, "fetch_info": fetch})

    def _get_xorb(self, request: Request) -> Answer:
        return _ranged(request, (self._xorbs / request.groups["hash"]).read_bytes(), {})


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for the head and the body
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        split = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(split.query, keep_blank_values=True)
        request = Request(self.command, split.path, query, headers, self._read(headers))
        answer = self.hub.respond(request)
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(answer.status)
        kind = "octet-stream" if isinstance(answer.content, bytes) else "json"
        length = {"Content-Type": f"application/{kind}", "Content-Length": str(len(answer.body))}
        for name, value in (length | dict(answer.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client went away
            super().handle()


def _git_blob(content: bytes) -> Blob:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return Blob(oid, len(content), content=content)


def _large_blob(sha256: str, size: int) -> Blob:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return Blob(_git_blob(pointer.encode()).oid, size, sha256)


def _blob_info(blob: Blob) -> dict[str, Any]:
    lfs = {"sha256": blob.sha256, "size": blob.size, "pointerSize": 130}
    return {"blobId": blob.oid, "size": blob.size, **({"lfs": lfs} if blob.sha256 else {})}


def _card_data(readme: bytes) -> Any:
    found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", readme.decode(), re.DOTALL)
    return (yaml.safe_load(found[1]) if found else None) or {}


def _add_commit(
    repo: Repo,
    ref: str,
    parent: Commit | None,
    title: str,
    message: str,
    who: str,
    tree: Mapping[str, Blob],
) -> str:
    """Add a commit and move `ref` to it; return its id, which is unique in the repo."""
    tree = dict(sorted(tree.items()))
    what = [repo.path, ref, len(repo.commits), title, [(p, b.oid) for p, b in tree.items()]]
    oid = hashlib.sha1(json.dumps(what).encode()).hexdigest()
    date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    before = parent.oid if parent else None
    repo.commits[oid] = Commit(oid, title, message, before, who, date, tree)
    repo.refs[ref] = oid
    return oid


def _resolve(repo: Repo, revision: str) -> Commit:
    """Return the commit of a branch, a tag, a full ref, or a (prefix of an) id."""
    for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
        if ref in repo.refs:
            return repo.commits[repo.refs[ref]]
    found = [
        c for oid, c in repo.commits.items() if len(revision) >= 7 and oid.startswith(revision)
    ]
    if len(found) != 1:
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return found[0]


def _history(repo: Repo, commit: Commit | None) -> Iterator[Commit]:
    while commit:
        yield commit
        commit = repo.commits[commit.parent] if commit.parent else None


def _is_in(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


def _paths(tree: Mapping[str, Blob]) -> list[str]:
    """Return the files and the folders."""
    folders = {str(folder) for path in tree for folder in PurePosixPath(path).parents}
    return sorted({*tree, *folders} - {"."})


def _no_entry(path: str, head: Commit, message: str = "Entry not found") -> RefusedError:
    return RefusedError(404, f"{message}: {path}", "EntryNotFound", X_Repo_Commit=head.oid)


def _span(request: Request, size: int) -> tuple[int, int] | None:
    """Return (first, last) byte of the Range header; None if there is none."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not found:
        return None
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        raise RefusedError(416, "Range not satisfiable", Content_Range=f"bytes */{size}")
    return start, end


def _ranged(request: Request, content: bytes, headers: Mapping[str, str]) -> Answer:
    range_headers = {"Accept-Ranges": "bytes", **headers}
    span = _span(request, len(content))
    if span is None:
        return Answer(content, 200, range_headers)
    range_headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{len(content)}"
    return Answer(content[span[0] : span[1]], 206, range_headers)


def _xet_hex(raw: bytes) -> str:
    """Return the hash at the start of `raw` in Xet's notation: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack_from("<4Q", raw))


def _shard_section(shard: bytes, at: int) -> tuple[list[list[bytes]], int]:
    """Return the records of a shard's section, and where its end mark is.

    All parts of a record have 48 bytes: its head, its entries, and what its flags say: a
    verification for each entry, and a file's sha256.
    """
    records = []
    while shard[at : at + 32] != SHARD_MARK[:32]:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        end = at + 48 * (1 + count * (1 + (flags >> 31 & 1)) + (flags >> 30 & 1))
        records.append([shard[part : part + 48] for part in range(at, end, 48)])
        at = end
    return records, at


def _read_shard(shard: bytes) -> tuple[list[tuple[str, str, list[Term]]], dict[str, bytes]]:
    """Return its files (Xet hash, sha256, terms), and its chunks, each with `_dedup_answer`."""
    files, at = _shard_section(shard, 48)
    xorbs, end = _shard_section(shard, at + 48)
    named = []
    for head, *parts in files:
        (count,) = struct.unpack_from("<I", head, 36)
        terms = []
        for part in parts[:count]:
            length, first, last = struct.unpack_from("<3I", part, 36)
            terms.append((_xet_hex(part), first, last, length))
        named.append((_xet_hex(head), _xet_hex(parts[-1]), terms))
    answer = _dedup_answer(shard[:40], shard[at + 48 : end])
    return named, {_xet_hex(chunk): answer for _, *chunks in xorbs for chunk in chunks}


def _dedup_answer(head: bytes, xorbs: bytes) -> bytes:
    """Return a shard without files, with the footer that clients require in a response."""
    body = head + struct.pack("<Q", 200) + SHARD_MARK + xorbs + SHARD_MARK
    now = int(time.time())
    tables = (len(body), 0) * 3  # no lookup tables: the client makes its own
    return body + struct.pack("<9Q32x2Q72xQ", 1, 48, 96, *tables, now, now + 3600, len(body))


def _chunk_offsets(xorb: bytes) -> list[int]:
    """Return the start of each chunk of a xorb, and the end of the last one."""
    offsets, at = [0], 0
    while at + 8 <= len(xorb) and xorb[at : at + 7] != b"XETBLOB":
        at += 8 + int.from_bytes(xorb[at + 1 : at + 4], "little")
        offsets.append(at)
    return offsets


def _chunk(xorb: bytes, at: int) -> bytes:
    """Return one decompressed chunk: stored, LZ4, or LZ4 with bytes grouped by four."""
    packed, scheme = int.from_bytes(xorb[at + 1 : at + 4], "little"), xorb[at + 4]
    size = int.from_bytes(xorb[at + 5 : at + 8], "little")
    content = xorb[at + 8 : at + 8 + packed]
    if scheme:
        content = pa.Codec("lz4").decompress(content, size).to_pybytes()
    if scheme != 2:
        return content
    whole, start = bytearray(size), 0
    for group in range(4):
        length = len(range(group, size, 4))
        whole[group::4] = content[start : start + length]
        start += length
    return bytes(whole)


_ID = r"(?P<id>[^/]+/[^/]+?)"
_API = rf"/api/(?P<kind>models|datasets|spaces)/{_ID}"
_WEB = rf"/(?:(?P<kind>datasets|spaces)/)?{_ID}"
_REV = r"(?P<rev>refs(?:/|%2F)pr(?:/|%2F)\d+|[^/]+)"
_XORB = r"(?P<hash>[0-9a-f]{64})"

Handle = Callable[[Hub, Request], Answer]
ROUTES: tuple[tuple[str, str, Handle], ...] = (
    ("GET", "/api/whoami-v2", Hub._whoami),
    ("POST", "/api/validate-yaml", Hub._validate_yaml),
    ("POST", "/api/repos/create", Hub._create),
    ("DELETE", "/api/repos/delete", Hub._delete),
    ("GET", _API, Hub._info),
    ("GET", rf"{_API}/revision/{_REV}", Hub._info),
    ("GET", rf"{_API}/auth-check(/write)?", Hub._auth_check),
    ("GET", rf"{_API}/refs", Hub._list_refs),
    ("GET", rf"{_API}/commits/{_REV}", Hub._list_commits),
    ("POST DELETE", rf"{_API}/(branch|tag)/(?P<ref>[^/]+)", Hub._change_ref),
    ("GET", rf"{_API}/tree/{_REV}(/(?P<path>.+))?", Hub._tree),
    ("POST", rf"{_API}/paths-info/{_REV}", Hub._paths_info),
    ("POST", rf"{_API}/preupload/{_REV}", Hub._preupload),
    ("POST", rf"{_API}/commit/{_REV}", Hub._commit),
    ("GET", rf"{_API}/xet-(?P<mode>read|write)-token/{_REV}", Hub._xet_token),
    ("POST", rf"{_WEB}\.git/info/lfs/objects/batch", Hub._lfs_batch),
    ("POST", rf"{_WEB}\.git/info/lfs/objects/verify", Hub._lfs_verify),
    ("GET HEAD", rf"{_WEB}/resolve/{_REV}/(?P<path>.+)", Hub._resolve_file),
    ("GET HEAD", rf"/cdn/xorbs/{_XORB}", Hub._get_xorb),
    ("GET HEAD PUT", r"/cdn/(?P<oid>[0-9a-f]{64})", Hub._cdn),
    ("POST", rf"/cas/v1/xorbs/default/{_XORB}", Hub._put_xorb),
    ("POST", "/cas/v1/shards", Hub._put_shard),
    ("GET", rf"/cas/v1/chunks/[^/]+/{_XORB}", Hub._known_chunk),
    ("GET", rf"/cas/v1/reconstructions/{_XORB}", Hub._reconstruction),
)
