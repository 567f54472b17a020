"""A Hugging Face hub small enough to read: the real client talks to it, and a test asks what has arrived."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

WRITER, READER = "hf_" + "w" * 34, "hf_" + "r" * 34
"""Tokens that may write, and that may only read; any other is refused."""


@dataclass
class ServedRepository:
    """A repository as the hub has it. `commits`: their hashes, newest last; `in_lfs`: the files of these in LFS."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs\n"})
    in_lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: [hashlib.sha1(b"first").hexdigest()])


class HubServer:
    """`with HubServer() as server`: a free port; `repositories` by name. `refuse`: the status that a path which matches
    gets, with the token of the request in its message."""

    def __init__(self) -> None:
        self.repositories: dict[str, ServedRepository] = {}
        self.refuse: dict[str, int] = {}
        self.asked: list[str] = []
        self.objects: dict[str, bytes] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": self}))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def described(self, name: str) -> dict[str, Any]:
        """A repository as /api/models tells of it, with the blobs."""
        repository = self.repositories[name]
        files = [
            {
                "rfilename": path,
                "size": len(content),
                "blobId": _git_id(content),
                **(
                    {"lfs": {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}}
                    if path in repository.in_lfs
                    else {}
                ),
            }
            for path, content in repository.files.items()
        ]
        return {"id": name, "private": repository.private, "sha": repository.commits[-1], "siblings": files}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> str:
        """Takes over the files of one commit; lines are a header, files and files in LFS."""
        repository = self.repositories[name]
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.objects[value["oid"]]
                repository.in_lfs.add(value["path"])
        repository.commits.append(hashlib.sha1(json.dumps(lines).encode()).hexdigest())
        return repository.commits[-1]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: HubServer

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_PUT(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        path = self.path.partition("?")[0]
        self.served.asked.append(f"{self.command} {path}")
        for pattern, status in self.served.refuse.items():
            if re.search(pattern, path):
                return self._reply({"error": f"no, {self.headers.get('Authorization')}"}, status=status)
        if path == "/" or path == "/api/validate-yaml":
            return self._reply({})
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*found.groups())
        if path.startswith("/lfs/"):
            self.served.objects[path.removeprefix("/lfs/")] = body
            return self._reply({})
        if self.command == "POST" and self._token() != WRITER:
            return self._reply({"error": "no"}, status=403 if self._token() == READER else 401)
        if path == "/api/repos/create":
            return self._created(json.loads(body))
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(preupload|commit)/main)?", path):
            return self._model(found[1], found[2], body)
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return self._reply({"objects": [self._action(asked) for asked in json.loads(body)["objects"]]})
        return self._reply({"error": "unknown"}, status=404)

    def _model(self, name: str, action: str | None, body: bytes) -> None:
        if not self._may_read(name):
            return self._reply({"error": "no repository"}, status=404, headers={"X-Error-Code": "RepoNotFound"})
        if action is None:
            return self._reply(self.served.described(name))
        if action == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._reply({"files": files})
        commit = self.served.commit(name, [json.loads(line) for line in body.splitlines()])
        return self._reply({"commitUrl": f"{self.served.url}/{name}/commit/{commit}", "commitOid": commit})

    def _created(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.served.repositories:
            return self._reply({"error": "it exists"}, status=409)
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.served.repositories[name] = ServedRepository(private=private)
        return self._reply({"url": f"{self.served.url}/{name}", "name": name})

    def _action(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "actions": {"upload": {"href": f"{self.served.url}/lfs/{asked['oid']}"}}}

    def _file(self, name: str, revision: str, path: str) -> None:
        if not self._may_read(name):
            return self._reply({}, status=404, headers={"X-Error-Code": "RepoNotFound"})
        repository = self.served.repositories[name]
        if revision not in ("main", *repository.commits):
            return self._reply({}, status=404, headers={"X-Error-Code": "RevisionNotFound"})
        if path not in repository.files:
            return self._reply({}, status=404, headers={"X-Error-Code": "EntryNotFound"})
        content = repository.files[path]
        headers = {"ETag": f'"{_git_id(content)}"', "X-Repo-Commit": repository.commits[-1]}
        return self._reply(content, headers=headers)

    def _may_read(self, name: str) -> bool:
        found = self.served.repositories.get(name)
        return found is not None and (not found.private or self._token() in (WRITER, READER))

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _reply(self, content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
