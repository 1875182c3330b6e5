"""A server on this machine that answers the requests with which huggingface_hub creates repositories and uploads."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubServer(ThreadingHTTPServer):
    """Keeps repositories in memory. Files that end with `large` go to its storage first, as large files of the hub.

    repositories: (plural of the kind, USER/NAME) -> {"private": ..., "commits": [{path: bytes}, ...]}
    refusals:     part of a path -> status that it is answered with
    tokens:       pairs of a path and the header that authorizes
    """

    large = ".safetensors"
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.storage, self.refusals, self.tokens = {}, {}, {}, set()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    wbufsize = -1

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def do_PUT(self):
        self.answer()

    def answer(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = self.path.partition("?")[0]
        self.server.tokens.add((path, self.headers["Authorization"]))
        refused = [status for part, status in self.server.refusals.items() if part in path]
        if refused:
            return self.send(refused[0], {"error": "refused by the test"})
        for pattern, handle in ROUTES.items():
            if found := re.fullmatch(pattern, path):
                content = handle(self.server, body, *found.groups())
                if content is not None:
                    return self.send(200, content)
        return self.send(404, {"error": f"no {path}"})

    def send(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing on stderr."""


def create(server, body):
    asked = json.loads(body)
    kind, name = f"{asked['type']}s", f"{asked['organization']}/{asked['name']}"
    repository = {"private": asked.get("visibility") == "private", "commits": []}
    server.repositories.setdefault((kind, name), repository)
    return {"url": f"{server.address}/{'datasets/' if kind == 'datasets' else ''}{name}"}


def info(server, _, kind, name):
    found = server.repositories.get((kind, name))
    return found and {"id": name, "private": found["private"], "tags": [], "siblings": []}


def preupload(server, body, *_):
    modes = {True: "lfs", False: "regular"}
    files = [file["path"] for file in json.loads(body)["files"]]
    return {"files": [{"path": p, "uploadMode": modes[p.endswith(server.large)], "shouldIgnore": False} for p in files]}


def batch(server, body, *_):
    objects = json.loads(body)["objects"]
    actions = [{"upload": {"href": f"{server.address}/storage/{one['oid']}"}} for one in objects]
    return {"transfer": "basic", "objects": [one | {"actions": a} for one, a in zip(objects, actions, strict=True)]}


def store(server, body, digest):
    assert hashlib.sha256(body).hexdigest() == digest
    server.storage[digest] = body
    return {}


def commit(server, body, kind, name):
    files = {}
    for line in body.splitlines():
        entry = json.loads(line)
        if entry["key"] == "file":
            files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        elif entry["key"] == "lfsFile":
            files[entry["value"]["path"]] = server.storage[entry["value"]["oid"]]
    server.repositories[kind, name]["commits"].append(files)
    return {"commitUrl": f"{server.address}/{name}/commit/c0", "commitOid": "c0"}


KIND, NAME = "(datasets|models)", "([^/]+/[^/]+)"
ROUTES = {
    "/api/repos/create": create,
    f"/api/{KIND}/{NAME}": info,
    "/api/validate-yaml": lambda *_: {},
    f"/api/{KIND}/{NAME}/preupload/main": preupload,
    f"/(datasets/)?{NAME}.git/info/lfs/objects/batch": batch,
    "/storage/([0-9a-f]{64})": store,
    f"/api/{KIND}/{NAME}/commit/main": commit,
}
