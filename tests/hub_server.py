"""A server on this machine that speaks the Hub's API to the unmodified `huggingface_hub` client: fixture `hub`.

Two servers, as there are two in the world: one has the repositories and asks for a token, the other stores large files
and is not to be told any token.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest
import transformers.utils.hub
import yaml

LARGE = (".safetensors", ".parquet", ".bin", ".pt", ".pth", ".png", ".jpg")
LICENSES = {"apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}
LICENSES |= {"cc-by-sa-3.0", "cc-by-nc-sa-3.0", "other", "unknown"}  # and more
REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_REPO = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([a-z-]+))?(?:/([^/]+))?(?:/(.+))?")
_RESOLVE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_BATCH = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Repository:
    """Files by commit; the last commit is `main`."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    messages: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, changes: dict[str, bytes], message: str = "", gone: Collection[str] = ()) -> str:
        files = {name: content for name, content in self.files.items() if name not in gone} | changes
        digest = hashlib.sha1(repr((self.head, message)).encode())
        for name in sorted(files):
            digest.update(name.encode() + files[name])
        self.messages.append(message)
        self.commits[digest.hexdigest()] = files
        return digest.hexdigest()


@dataclass
class Hub:
    """What the tests see of the server: the token it knows, its repositories, and what was asked of it.

    Args:
        breaks: How many times to break off: an "upload" or a "download" in the middle of a file, a "commit" before it is
            made, the "answer" to a commit that is made.
        uploads: SHA-256 of the large files whose upload came through, in order.
        requests: Method, path and token of each request; those to the store of large files have its address in front.
    """

    address: str = ""
    store: str = ""
    token: str = "hf_aTokenThatMustNotBeSeen"
    repos: dict[tuple[str, str], Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    breaks: Counter = field(default_factory=Counter)
    uploads: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def add(
        self, repo_id: str, files: Path | dict[str, bytes], repo_type: str = "model", private: bool = False
    ) -> str:
        """Put a repository there without a request; gives its commit."""
        if isinstance(files, Path):
            found = (path for path in files.rglob("*") if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in found}
        repo = self.repos.setdefault((repo_type, repo_id), Repository(private))
        return repo.commit(files)

    def model(self, repo_id: str) -> Repository:
        return self.repos["model", repo_id]

    def dataset(self, repo_id: str) -> Repository:
        return self.repos["dataset", repo_id]

    def environment(self, cache: Path) -> dict[str, str]:
        """Variables for a process of its own that talks to this server."""
        plain = {"HF_ENDPOINT": self.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(cache)}
        return plain | {"no_proxy": "127.0.0.1", "OMP_NUM_THREADS": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *_):
        pass

    def answer(self, content=b"", status: int = 200, **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in ({"Content-Length": len(content)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self, share: float = 1.0) -> bytes:
        """Read the request's content, or the first part of it."""
        length = self.headers["Content-Length"]
        if length is not None:
            return self.rfile.read(int(int(length) * share))
        content = b""
        while self.headers["Transfer-Encoding"] == "chunked" and (size := int(self.rfile.readline(), 16)):
            content += self.rfile.read(size)
            self.rfile.readline()
            if share < 1:
                return content
        if self.headers["Transfer-Encoding"] == "chunked":
            self.rfile.readline()
        return content

    def breaks_now(self, what: str) -> bool:
        self.hub.breaks[what] -= 1
        return self.hub.breaks[what] >= 0

    def hang_up(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def note(self, address: str = ""):
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
        self.hub.requests.append((self.command, address + self.path, token))


class _Store(_Handler):
    """Large files by their SHA-256, as a cloud's storage: the address is the permission."""

    def do_PUT(self):
        self.note(self.hub.store)
        if self.breaks_now("upload"):
            self.body(share=0.5)
            return self.hang_up()
        content = self.body()
        oid = self.path.split("/")[-1]
        if hashlib.sha256(content).hexdigest() != oid:
            return self.answer({"error": "another file than was announced"}, 400)
        self.hub.large[oid] = content
        self.hub.uploads.append(oid)
        return self.answer()

    def do_GET(self):
        self.note(self.hub.store)
        content = self.hub.large[self.path.split("/")[-1]]
        start, end = 0, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if asked:
            start = int(asked[1])
            end = min(int(asked[2]) + 1, end) if asked[2] else end
        if self.breaks_now("download"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            return self.hang_up()
        where = {"Content_Range": f"bytes {start}-{end - 1}/{len(content)}"} if asked else {}
        return self.answer(content[start:end], 206 if asked else 200, **where)

    do_HEAD = do_GET  # noqa: N815


class _Api(_Handler):
    """Repositories: who may read and write what."""

    def do_GET(self):
        self.note()
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            return self.answer(
                {"type": "user", "name": "me", "orgs": []} if self.is_me else {}, 200 if self.is_me else 401
            )
        if found := _RESOLVE.fullmatch(path):
            return self.resolve(*found.groups())
        if found := _REPO.fullmatch(path):
            kind, repo_id, verb, revision, folder = found.groups()
            repo = self.readable(kind, repo_id)
            if repo is None:
                return None
            commit = self.commit_of(repo, revision)
            if commit is None:
                return None
            if verb == "tree":
                return self.answer(self.tree(repo.commits[commit], folder))
            return self.answer(self.info(repo, repo_id, commit))
        return self.answer({"error": "Not Found"}, 404)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        self.note()
        path = unquote(urlsplit(self.path).path)
        if path == "/api/validate-yaml":
            errors = card_errors(json.loads(self.body())["content"])
            return self.answer(
                {"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200
            )
        if path == "/api/repos/create":
            return self.create(json.loads(self.body()))
        if found := _BATCH.fullmatch(path):
            return self.writable(*found.groups()) and self.batch(json.loads(self.body())["objects"])
        if path == "/api/verify":
            asked = json.loads(self.body())
            there = len(self.hub.large.get(asked["oid"], b"")) == asked["size"]
            return self.answer({}, 200 if there else 404)
        found = _REPO.fullmatch(path)
        if found is None:
            self.body()
            return self.answer({"error": "Not Found"}, 404)
        kind, repo_id, verb, revision, _ = found.groups()
        if verb == "paths-info":
            repo, asked = self.readable(kind, repo_id), json.loads(self.body())["paths"]
            files = repo.commits[self.commit_of(repo, revision)]
            return self.answer([entry for entry in self.tree(files, None, True) if entry["path"] in asked])
        repo = self.writable(kind, repo_id)
        if repo is None:
            return None
        return self.preupload(repo) if verb == "preupload" else self.commit(repo, kind, repo_id)

    # --- who may do what

    @property
    def is_me(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {self.hub.token}"

    def readable(self, kind: str | None, repo_id: str) -> Repository | None:
        repo = self.hub.repos.get(("dataset" if kind == "datasets" else "model", repo_id))
        if repo is None or (repo.private and not self.is_me):  # the Hub does not tell which
            self.answer({"error": "Repository not found"}, 404 if self.is_me else 401, X_Error_Code="RepoNotFound")
            return None
        return repo

    def writable(self, kind: str | None, repo_id: str) -> Repository | None:
        if self.is_me and not repo_id.startswith("me/"):
            self.body()
            self.answer({"error": "forbidden"}, 403, X_Error_Message="You don't have the rights to write there")
            return None
        repo = self.readable(kind, repo_id)
        if repo is not None and not self.is_me:
            self.body()
            self.answer({"error": "Invalid credentials in Authorization header"}, 401)
            return None
        return repo

    def commit_of(self, repo: Repository, revision: str | None) -> str | None:
        commit = repo.head if revision in (None, "main") else revision
        if commit not in repo.commits:
            self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            return None
        return commit

    # --- what is there

    def info(self, repo: Repository, repo_id: str, commit: str) -> dict:
        files = repo.commits[commit]
        data = front_matter(files.get("README.md", b"").decode()) or {}
        tags = [f"license:{data['license']}"] if "license" in data else []
        siblings = [{"rfilename": name} for name in sorted(files)]
        known = {"id": repo_id, "sha": commit, "private": repo.private, "siblings": siblings, "tags": tags}
        return known | {"cardData": data, "gated": False, "disabled": False}

    def tree(self, files: dict[str, bytes], folder: str | None, recursive: bool | None = None) -> list[dict]:
        if recursive is None:
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["False"])[0].lower() == "true"
        start = f"{folder}/" if folder else ""
        entries = {}
        for name in sorted(files):
            below = name.removeprefix(start)
            if not name.startswith(start):
                continue
            if "/" in below:
                path = start + below.split("/")[0]
                entries[path] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
            if recursive or "/" not in below:
                entries[name] = {"type": "file", "oid": blob_id(files[name]), "size": len(files[name]), "path": name}
                if is_large(name):
                    oid = hashlib.sha256(files[name]).hexdigest()
                    entries[name]["lfs"] = {"oid": oid, "size": len(files[name]), "pointerSize": 135}
        return list(entries.values())

    def resolve(self, kind: str | None, repo_id: str, revision: str, name: str):
        repo = self.readable(kind, repo_id)
        commit = repo and self.commit_of(repo, revision)
        if commit is None:
            return None
        content = repo.commits[commit].get(name)
        if content is None:
            return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        if not is_large(name):
            return self.answer(content, X_Repo_Commit=commit, ETag=f'"{blob_id(content)}"')
        oid = hashlib.sha256(content).hexdigest()
        self.hub.large[oid] = content
        linked = {"X_Linked_Size": len(content), "X_Linked_ETag": f'"{oid}"', "ETag": '"of the pointer"'}
        return self.answer(b"", 302, X_Repo_Commit=commit, Location=f"{self.hub.store}/{oid}", **linked)

    # --- what changes it

    def create(self, asked: dict):
        if not self.is_me:
            return self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        owner = asked.get("organization") or "me"
        if owner != "me":
            return self.answer({"error": "forbidden"}, 403, X_Error_Message=f"You cannot create under {owner}")
        repo_id, kind = f"{owner}/{asked['name']}", asked.get("type") or "model"
        found = {"url": f"{self.hub.address}/{'datasets/' if kind == 'dataset' else ''}{repo_id}", "id": repo_id}
        if (kind, repo_id) in self.hub.repos:
            return self.answer(found | {"error": "You already created this repo"}, 409)
        self.hub.repos[kind, repo_id] = Repository(asked.get("private") or asked.get("visibility") == "private")
        return self.answer(found)

    def preupload(self, repo: Repository):
        modes = []
        for file in json.loads(self.body())["files"]:
            large, there = is_large(file["path"]), repo.files.get(file["path"])
            oid = None
            if there is not None:
                oid = hashlib.sha256(there).hexdigest() if large else blob_id(there)
            mode = {
                "path": file["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": oid,
            }
            modes.append(mode)
        return self.answer({"files": modes})

    def batch(self, objects: list[dict]):
        answers = []
        for one in objects:
            answers.append({"oid": one["oid"], "size": one["size"]})
            if one["oid"] not in self.hub.large:
                places = {"upload": f"{self.hub.store}/{one['oid']}", "verify": f"{self.hub.address}/api/verify"}
                answers[-1]["actions"] = {name: {"href": place, "header": {}} for name, place in places.items()}
        return self.answer({"transfer": "basic", "objects": answers})

    def commit(self, repo: Repository, kind: str, repo_id: str):
        if self.breaks_now("commit"):
            self.body(share=0.5)
            return self.hang_up()
        changes, gone, message = {}, set(), ""
        for line in map(json.loads, self.body().splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                gone.add(value["path"])
        oid = repo.commit(changes, message, gone)
        if self.breaks_now("answer"):
            return self.hang_up()
        url = f"{self.hub.address}/{'datasets/' if kind == 'datasets' else ''}{repo_id}/commit/{oid}"
        return self.answer({"commitOid": oid, "commitUrl": url, "hookOutput": ""})


def is_large(name: str) -> bool:
    return name.endswith(LARGE)


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def front_matter(card: str) -> dict | None:
    found = re.match(r"---\r?\n(.*?)\n---\r?\n", card, re.DOTALL)
    return yaml.safe_load(found[1]) if found else None


def card_errors(card: str) -> list[str]:
    """Rules of the Hub that a card of ours might break."""
    data = front_matter(card) or {}
    errors = []
    if data.get("license", "unknown") not in LICENSES:
        errors.append(f'"license" must be one of {LICENSES}')
    for name in ("base_model", "datasets"):
        values = data.get(name) or []
        for value in [values] if isinstance(values, str) else values:
            if not REPO_ID.fullmatch(value):
                errors.append(f'"{name}" with value "{value}" is not valid. Use an id from the Hub.')
    for entry in data.get("model-index") or []:
        for result in entry.get("results", []):
            if not all(result.get(part, {}).get("type") for part in ("task", "dataset")) or not result.get("metrics"):
                errors.append('"model-index" has a result without task, dataset or metrics')
            errors += [
                '"value" is missing' for metric in result["metrics"] if not isinstance(metric["value"], (int, float))
            ]
    return errors


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub of the test's own, to which this process talks, with a token and an empty cache."""
    found = Hub()
    servers = []
    for handler in (_Api, _Store):
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        servers[-1].hub = found
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
    found.address, found.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    constants = "huggingface_hub.constants"
    template = found.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(f"{constants}.ENDPOINT", found.address)  # HF_ENDPOINT is read once, at the first import
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", found.address)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", found.address)
    for name in ("HF_HUB_OFFLINE", "HF_UPDATE_DOWNLOAD_COUNTS"):
        monkeypatch.setattr(f"datasets.config.{name}", False)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    # The client waits 1, 2, 4 and 8 s before it tries again.
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda _: None), raising=False)
    monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None), raising=False)
    monkeypatch.setenv("HF_TOKEN", found.token)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    huggingface_hub.close_session()
    yield found
    huggingface_hub.close_session()
    for server in servers:
        server.shutdown()
        server.server_close()
