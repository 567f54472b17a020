"""A W&B server small enough to read: the real client talks to it, and a test asks what has arrived."""

import gzip
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

KEY = "k" * 40  # what looks like a key to the client


@dataclass
class ServedRun:
    """What arrived of one run. `exit_code` is None until the client has finished it."""

    project: str
    display_name: str = ""
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


class WandbServer:
    """`with WandbServer() as server`: a free port; `runs` by id; `refuse` answers 401 to everything. `points`: what the
    agent of a sweep is told to run, in this order, before it is told to exit."""

    def __init__(self, *, refuse: bool = False) -> None:
        self.runs: dict[str, ServedRun] = {}
        self.refuse = refuse
        self.sweep = ""  # the configuration of the newest sweep
        self.points: list[dict[str, Any]] = []
        self.sweep_states: list[dict[str, bool]] = []  # which runs an agent says are at work, each time it asks
        handler = type("Handler", (_Handler,), {"served": self})
        self._http = _QuietServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.gone = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self.gone:
            self.vanish()

    def vanish(self) -> None:
        """As if the machine had been switched off: what is in flight gets no answer, the port refuses."""
        self.gone = True
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def wait_for(self, run_id: str, *, rows: int, seconds: float = 20) -> ServedRun:
        """The run, as soon as that many history rows have come: the client sends in the background."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if run_id in self.runs and len(self.runs[run_id].history) >= rows:
                return self.runs[run_id]
            time.sleep(0.05)
        raise TimeoutError(f"{rows} rows of {run_id} did not arrive in {seconds} s")

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL request."""
        project = {"id": "p", "name": variables.get("project") or "", "entity": {"id": "e", "name": "tester"}}
        run_id = variables.get("name") or variables.get("id") or ""
        if "upsertSweep" in query:
            self.sweep = variables["config"]
            return {"upsertSweep": {"sweep": {"name": "sw33p", "project": project}, "configValidationWarnings": []}}
        if "SweepWithRuns" in query:
            return {"project": {"sweep": {"config": self.sweep, "runs": {"edges": []}}}}
        if "createAgent" in query:
            return {"createAgent": {"agent": {"id": "agent"}}}
        if "agentHeartbeat" in query:
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(self._orders(variables))}}
        if "upsertBucket" in query:
            inserted = run_id not in self.runs
            run = self.runs.setdefault(run_id, ServedRun(project=project["name"]))
            run.display_name = variables.get("displayName") or run.display_name
            run.group = variables.get("groupName") or run.group
            run.job_type = variables.get("jobType") or run.job_type
            run.tags = variables.get("tags") or run.tags
            run.config |= json.loads(variables.get("config") or "{}")
            bucket = self._bucket(run_id, run) | {"project": project, "sweepName": None}
            return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/storage/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": run_id, "uploadHeaders": [], "files": files}}
        if "bucket(" in query:  # is there a run to resume?
            run = self.runs.get(run_id)
            return {"model": project | {"bucket": run and self._bucket(run_id, run)}}
        if "viewer" in query:
            viewer = {"id": "u", "entity": "tester", "username": "tester", "flags": "{}"}
            return {"viewer": viewer | {"teams": {"edges": []}}}
        if "serverInfo" in query:
            return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "features": []}}
        return {}

    def _orders(self, told: dict[str, Any]) -> list[dict[str, Any]]:
        """What an agent is to do next: nothing as long as it has a run at work."""
        self.sweep_states.append(json.loads(told["runState"]))
        if self.sweep_states[-1]:
            return []
        if not self.points:
            return [{"type": "exit"}]
        args = {key: {"value": value} for key, value in self.points.pop(0).items()}
        return [{"type": "run", "run_id": f"point-{len(self.points)}", "program": None, "args": args}]

    def _bucket(self, run_id: str, run: ServedRun) -> dict[str, Any]:
        return {
            "id": f"id-{run_id}",
            "name": run_id,
            "displayName": run.display_name,
            "config": json.dumps(run.config),
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "wandbConfig": '{"t": 1}',
            "tags": run.tags,
            "stopped": False,
        }

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """One batch of the client's file stream: rows, the newest summary, the exit code at the end."""
        run = self.runs[run_id]
        for name, part in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run.history += [json.loads(line) for line in part["content"]]
            if name == "wandb-summary.json":
                run.summary |= json.loads(part["content"][-1])
        if sent.get("complete"):
            run.exit_code = sent.get("exitcode")


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news; anything else is a fault of this file."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: WandbServer

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.served.gone:  # kept-alive connections outlive the port
            self.close_connection = True
            return
        if self.served.refuse:
            self._reply({"errors": [{"message": "user is not logged in"}]}, status=401)
        elif stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.served.stream(stream[1], json.loads(body))
            self._reply({})
        elif self.path == "/graphql":
            asked = json.loads(body)
            self._reply({"data": self.served.answer(asked["query"], asked.get("variables") or {})})
        else:
            self._reply({})

    def _reply(self, content: dict[str, Any], *, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        else:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
