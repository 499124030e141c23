"""A W&B server as far as wandb 0.31 asks one: it takes runs, files, tables and views, and keeps what it was sent."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY, KEY = "someone", "0" * 40
USER = {"id": "VQ==", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}


@dataclass
class SentRun:
    """What arrived of a run. `config` is without W&B's wrapping; `axes`: metric -> its step metric."""

    name: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None


@dataclass
class Stub:
    """The server's state. `status`: what it answers to everything; 0 is a server that never answers."""

    url: str = ""
    status: int = 200
    runs: dict[str, SentRun] = field(default_factory=dict)
    views: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0
    unknown: list[str] = field(default_factory=list)  # asked for, and not answered sensibly
    lock: Any = field(default_factory=threading.Lock)
    closing: Any = field(default_factory=threading.Event)

    def run(self, name: str) -> SentRun:
        """The run that was shown as `name`."""
        (found,) = (run for run in self.runs.values() if run.name == name)
        return found

    def graphql(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        known: dict[str, Any] = {
            "query RunResumeStatus": self.resumed,
            "upsertBucket": self.upsert,
            "createRunFiles": self.create_files,
            "createArtifact(": self.artifact,
            "upsertView": self.view,
            "artifactType": lambda _: {"project": {"artifact": None}},  # no artifact of that name yet
            "serverInfo": lambda _: {"serverInfo": {"features": []}},
            "viewer": lambda _: {"viewer": USER},
        }
        for field_name, answer in known.items():
            if field_name in query:
                return answer(values)  # type: ignore[no-any-return]
        self.unknown.append(query)
        return {}

    def upsert(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(values["name"], SentRun())
        run.name = values["displayName"] or run.name
        run.group = values["groupName"] or run.group
        run.tags = values["tags"] or run.tags
        config = {key: entry["value"] for key, entry in json.loads(values["config"] or "{}").items()}
        defined = config.pop("_wandb", {}).get("m", [])  # 1: name, 5: number of the step metric, from 1
        run.axes |= {m["1"]: defined[m["5"] - 1]["1"] for m in defined if "5" in m}
        run.config |= config
        run.summary |= json.loads(values["summaryMetrics"] or "{}")
        project = {"id": "UA==", "name": values["project"], "entity": {"id": "RQ==", "name": ENTITY}}
        bucket = {
            "id": "Ug==",
            "name": values["name"],
            "displayName": run.name,
            "description": "",
            "config": "{}",
            "sweepName": None,
            "historyLineCount": 0,
            "project": project,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def resumed(self, values: dict[str, Any]) -> dict[str, Any]:
        """What there is of a run that somebody wants to go on with."""
        run = self.runs.get(values["name"])
        bucket = run and {
            "id": "Ug==",
            "name": values["name"],
            "displayName": run.name,
            "tags": run.tags,
            "notes": None,
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "historyLineCount": len(run.history),
            "historyTail": json.dumps([json.dumps(run.history[-1])]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "wandbConfig": None,
        }
        project = {"id": "UA==", "name": values["project"], "entity": {"id": "RQ==", "name": ENTITY}}
        return {"model": project | {"bucket": bucket}}

    def create_files(self, values: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": n, "uploadUrl": f"{self.url}/upload/{values['run']}/{n}"} for n in values["files"]]
        return {"createRunFiles": {"runID": "Ug==", "uploadHeaders": [], "files": files}}

    def artifact(self, _: dict[str, Any]) -> dict[str, Any]:
        """As if its content were there already, so that it need not be sent: tables come as files of the run, too."""
        sequence = {"latestArtifact": {"id": "QQ==", "versionIndex": 0}}
        return {"createArtifact": {"artifact": {"id": "QQ==", "state": "COMMITTED", "artifactSequence": sequence}}}

    def view(self, values: dict[str, Any]) -> dict[str, Any]:
        self.views.append(values | {"spec": json.loads(values["spec"])})
        return {"upsertView": {"view": {"id": "Vg==", "name": values["name"]}, "inserted": True}}

    def stream(self, run: SentRun, sent: dict[str, Any]) -> None:
        for name, chunk in sent.get("files", {}).items():
            rows = [json.loads(line) for line in chunk["content"] if name.endswith((".json", ".jsonl"))]
            if name == "wandb-history.jsonl":
                run.history[chunk["offset"] :] = rows
            elif name == "wandb-summary.json":
                run.summary = rows[-1]
        run.exit_code = sent.get("exitcode", run.exit_code)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.stub.status == 0:
            self.stub.closing.wait()
            return
        with self.stub.lock:
            self.stub.requests += 1
            value = self.value(body) if self.stub.status == 200 else {}
        data = json.dumps(value).encode()
        self.send_response(self.stub.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = answer

    def value(self, body: bytes) -> dict[str, Any]:
        if self.path == "/graphql":
            asked = json.loads(body)
            return {"data": self.stub.graphql(asked["query"], asked.get("variables") or {})}
        if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.stub.stream(self.stub.runs[match[1]], json.loads(body))
        elif match := re.fullmatch(r"/upload/([^/]+)/(.+)", self.path):
            self.stub.runs[match[1]].files[match[2]] = body
        elif not self.path.startswith("/sdk/otel/"):  # telemetry
            self.stub.unknown.append(self.path)
        return {}

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no error here."""


@contextmanager
def serving(status: int = 200) -> Iterator[Stub]:
    """A stub on a free port of 127.0.0.1."""
    stub = Stub(status=status)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": stub}))
    stub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
