"""A small server with the HTTP API of the Hugging Face hub, for the real client of huggingface_hub.

It stores repositories in memory: commits with files, branches, and large files by SHA-256 (git LFS). Files named
``*.safetensors`` are large, all others arrive within the commit.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

ADDRESS = re.compile(r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git/(info)/lfs/objects/batch|/(\w+)(?:/(.*))?)?")
WRITER, READER = "hf_writer", "hf_reader"


@dataclass
class Repository:
    """One repository: its commits, oldest first, and the commit of each branch."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        sha = hashlib.sha1(content + str(len(self.commits)).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha


class Hub(ThreadingHTTPServer):
    """The server.

    Attributes:
        repositories: By hub id.
        blobs: Large files by SHA-256.
        requests: ``METHOD path`` of every request.
        is_silent: Accept requests and never answer.
        fail_after: Refuse large files after this many.
        cut: Close the connection after this many bytes of the next large file.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.is_silent, self.fail_after, self.cut = False, 1000, 0
        self.over = threading.Event()

    def add(self, name: str, *, private: bool = False, **files: bytes) -> Repository:
        repository = self.repositories[name] = Repository(private)
        repository.commit("main", {".gitattributes": b"", **files})
        return repository

    def sent(self, kind: str) -> list[str]:
        """Return the requests since the last call that match a regular expression."""
        found = [request for request in self.requests if re.search(kind, request)]
        self.requests.clear()
        return found


@contextmanager
def running() -> Iterator[Hub]:
    """Run a hub until the end of the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.over.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers the requests that ``HfApi`` and ``snapshot_download`` send for models."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if hub.is_silent:
            hub.over.wait(20)
            self.close_connection = True
            return None
        if path.startswith("/lfs/") and self.command == "PUT":
            return self.store(path.removeprefix("/lfs/"), body)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in ("", WRITER, READER):
            return self.fail(401, "Invalid credentials in Authorization header")
        if self.command == "POST" and token != WRITER:
            return self.fail(403, "You don't have the rights to create a model under this namespace")
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return self.send_json({})
        found = re.fullmatch(
            r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git/(info)/lfs/objects/batch|/(\w+)(?:/(.*))?)?", path
        )
        name, info, action, rest = found.groups()
        repository = hub.repositories.get(name)
        if repository is None or (repository.private and token != WRITER):
            return self.fail(404, "Repository not found", "RepoNotFound")
        handlers = {"tree": self.tree, "resolve": self.resolve, "revision": self.describe, "preupload": self.preupload}
        handlers |= {"commit": self.commit, "branch": self.branch, None: self.batch if info else self.describe}
        return handlers[action](name, repository, rest or "main", body)

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "owner":
            return self.fail(403, "You don't have the rights to create a model under this namespace")
        if name in self.server.repositories:
            return self.send_json({"error": "You already created this repo", "url": f"{self.server.url}/{name}"}, 409)
        self.server.add(name, private=asked.get("visibility") == "private" or asked.get("private") is True)
        return self.send_json({"url": f"{self.server.url}/{name}"})

    def describe(self, name: str, repository: Repository, revision: str, _: bytes) -> None:
        if (sha := self.resolved(repository, revision)) is None:
            return self.fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = [{"rfilename": file} for file in repository.commits[sha]]
        return self.send_json({"id": name, "sha": sha, "private": repository.private, "siblings": files})

    def tree(self, _: str, repository: Repository, revision: str, __: bytes) -> None:
        files = repository.commits[revision].items()
        self.send_json([{"type": "file", "path": k, "size": len(v), "oid": etag(k, v)} | lfs(k, v) for k, v in files])

    def preupload(self, _: str, repository: Repository, revision: str, body: bytes) -> None:
        there = repository.commits[repository.branches[revision]]
        answers = []
        for file in json.loads(body)["files"]:
            name = file["path"]
            known = {"oid": etag(name, there[name])} if name in there else {}
            mode = "lfs" if is_large(name) else "regular"
            answers.append({"path": name, "uploadMode": mode, "shouldIgnore": False} | known)
        self.send_json({"files": answers})

    def batch(self, _: str, __: Repository, ___: str, body: bytes) -> None:
        objects = []
        for item in json.loads(body)["objects"]:
            missing = item["oid"] not in self.server.blobs
            upload = {"actions": {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}"}}}
            objects.append(item | (upload if missing else {}))
        self.send_json({"transfer": "basic", "objects": objects})

    def store(self, oid: str, body: bytes) -> None:
        if len(self.server.blobs) >= self.server.fail_after:
            return self.fail(507, "The storage is full")
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        return self.send_json({})

    def commit(self, name: str, repository: Repository, revision: str, body: bytes) -> None:
        files = dict(repository.commits[repository.branches[revision]])
        for line in body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header" and value.get("parentCommit") != repository.branches[revision]:
                return self.fail(412, "A commit has happened since")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(revision, files)
        return self.send_json({"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})

    def branch(self, _: str, repository: Repository, name: str, __: bytes) -> None:
        repository.branches[name] = repository.branches["main"]
        self.send_json({})

    def resolve(self, _: str, repository: Repository, rest: str, __: bytes) -> None:
        revision, _, file = rest.partition("/")
        sha = self.resolved(repository, revision)
        content = repository.commits[sha or ""][file]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag(file, content)}"')
        self.send_header("X-Repo-Commit", sha or "")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.server.requests.append(f"RANGE {start} {file}")
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cut and is_large(file):
            content, self.server.cut, self.close_connection = content[: self.server.cut], 0, True
        self.wfile.write(content[start:])

    @staticmethod
    def resolved(repository: Repository, revision: str) -> str | None:
        sha = repository.branches.get(revision, revision)
        return sha if sha in repository.commits else None

    def fail(self, status: int, message: str, code: str = "") -> None:
        self.send_json({"error": message}, status, **{"X-Error-Code": code, "X-Error-Message": message})

    def send_json(self, answer: Any, status: int = 200, **headers: str) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def etag(name: str, content: bytes) -> str:
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs(name: str, content: bytes) -> dict[str, Any]:
    if not is_large(name):
        return {}
    return {"lfs": {"oid": etag(name, content), "size": len(content), "pointerSize": 100}}
