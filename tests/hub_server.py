"""A server on loopback that speaks what the hubs' clients speak, and fails as it is told to."""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

COMMIT = "a1" * 20
LARGE = 2**20  # from there on the Hugging Face hub redirects to another host, as it does for LFS


class Asked(NamedTuple):
    method: str
    path: str
    range: str | None
    token: str | None


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a dict of files; `faults` by the end of a path.

    A fault is a function of the handler and of how often this content was asked for: it answers
    itself and gives True, or gives False.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults, self.counts, self.asked = {}, {}, []
        self.is_off = False  # from then on every connection ends without an answer

    def downloads(self, name):
        """Requests for the content of a file."""
        return [ask for ask in self.asked if ask.method == "GET" and ask.path.endswith(name)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length)
        self.lines = [json.loads(line) for line in text.splitlines()]
        self.body = self.lines[0] if self.lines else {}
        self.answer()

    def do_PUT(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer()

    def answer(self):
        path, hub = unquote(urlsplit(self.path).path), self.server
        if hub.is_off:
            self.close_connection = True
            return None
        token, place = self.headers.get("Authorization"), path
        if self.command == "POST" and path.endswith("/DownloadModelInstanceVersion"):
            place = self.body["path"]
        hub.asked.append(Asked(self.command, place, self.headers.get("Range"), token))
        self.sends_body = self.command != "HEAD"
        for end, fault in list(hub.faults.items()):
            if place.endswith(end):
                hub.counts[end] = hub.counts.get(end, 0) + self.sends_body
                if fault(self, hub.counts[end]):
                    return None
        for pattern, method in (
            (r"/api/models/([^/]+/[^/]+)/revision/.+", self.listing),
            (r"/api/models/([^/]+/[^/]+)/tree/.+", self.tree),
            (r"/api/repos/create", self.create),
            (r"/api/validate-yaml", lambda: self.json({"errors": [], "warnings": []})),
            (r"/api/models/([^/]+/[^/]+)/preupload/.+", self.preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/.+", self.commit),
            (r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.resolve),
            (r"/cdn/([^/]+/[^/]+)/(.+)", self.content),
            (r"/plain/([^/]+/[^/]+)/(.+)", self.content),
            (r"/api/v1/models.ModelApiService/(\w+)", self.kaggle),
            (r"/api/v1/blobs.BlobApiService/StartBlobUpload", self.blob),
            (r"/blob/(.+)", self.put),
        ):
            if found := re.fullmatch(pattern, path):
                return method(*found.groups())
        return self.status(404)

    def status(self, code, headers=(), body=b""):
        self.send_response(code)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.sends_body:
            self.wfile.write(body)
        return True

    def json(self, value, code=200):
        sent = {"Content-Type": "application/json"}
        return self.status(code, sent, json.dumps(value).encode())

    def files(self, repository):
        return self.server.repositories.get(repository)

    # What huggingface_hub speaks.

    def listing(self, repository):
        files = self.files(repository)
        if files is None:
            return self.status(401, {"X-Error-Code": "RepoNotFound"})
        siblings = []
        for name, data in files.items():
            file = {"rfilename": name, "size": len(data), "blobId": sha1(data)}
            if len(data) >= LARGE:
                file["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
            siblings.append(file)
        self.json({"id": repository, "sha": COMMIT, "private": False, "siblings": siblings})

    def tree(self, repository):
        entries = []
        for name, data in self.files(repository).items():
            entry = {"type": "file", "path": name, "size": len(data), "oid": sha1(data)}
            if len(data) >= LARGE:
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        self.json(entries)

    def resolve(self, repository, name):
        data = (self.files(repository) or {}).get(name)
        if data is None:
            return self.status(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        if len(data) < LARGE:
            return self.content(repository, name, {"X-Repo-Commit": COMMIT, "ETag": sha1(data)})
        return self.status(
            302,
            {
                "X-Repo-Commit": COMMIT,
                "X-Linked-ETag": f'"{sha256(data)}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"http://localhost:{self.server.port}/cdn/{repository}/{name}",
            },
        )

    def create(self):
        place = f"{self.body['organization']}/{self.body['name']}"
        self.server.repositories.setdefault(place, {})
        self.json({"url": f"{self.server.url}/{place}"})

    def preupload(self, repository):
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            for file in self.body["files"]
        ]
        self.json({"files": files})

    def commit(self, repository):
        for line in self.lines:
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.files(repository)[line["value"]["path"]] = content
        address = f"{self.server.url}/{repository}/commit/{COMMIT}"
        self.json({"success": True, "commitOid": COMMIT, "commitUrl": address})

    # What kagglehub speaks.

    def blob(self):
        self.json(
            {"token": self.body["name"], "createUrl": f"{self.server.url}/blob/{self.body['name']}"}
        )

    def put(self, name):
        self.server.blobs[name] = self.body
        self.status(200)

    def kaggle(self, request):
        body = self.body
        if request == "CreateModel":
            self.server.repositories[f"{body['ownerSlug']}/{body['slug']}"] = {}
            return self.json({})
        place = "/".join(body[key] for key in ("ownerSlug", "modelSlug"))
        files = self.files(place)
        if files is None:
            return self.json({"code": 404, "message": "not found"}, 404)
        if request == "GetModel":
            return self.json({"ownerSlug": place})
        if request.startswith("CreateModelInstance"):
            if files and request == "CreateModelInstance":
                return self.json({"error": "there is one", "errorCode": 409})
            files |= {name: data for name, data in self.blobs_of(body["body"])}
            return self.json({})
        if request == "GetModelInstance" and not files:
            return self.json({"code": 404, "message": "not found"}, 404)
        if request == "GetModelInstance":
            return self.json({"versionNumber": 7})
        if request == "ListModelInstanceVersionFiles":
            pages = [dict(list(files.items())[start : start + 3]) for start in range(0, 99, 3)]
            page = int(body.get("pageToken") or 0)
            listed = [{"name": name, "size": len(data)} for name, data in pages[page].items()]
            more = str(page + 1) if pages[page + 1] else ""
            return self.json({"files": listed, "nextPageToken": more})
        if body["path"] not in files:
            return self.json({"code": 404, "message": "no such file"}, 404)
        self.status(302, {"Location": f"{self.server.url}/cdn/{place}/{body['path']}"})

    def blobs_of(self, place, prefix=""):
        for file in place.get("files", ()):
            yield prefix + file["token"], self.server.blobs[file["token"]]
        for inner in place.get("directories", ()):
            yield from self.blobs_of(inner, f"{prefix}{inner['name']}/")

    # Bytes.

    def content(self, repository, name, headers=()):
        data = (self.files(repository) or {}).get(name)
        if data is None:
            return self.status(404)
        headers = {"ETag": sha1(data), "Accept-Ranges": "bytes", **dict(headers)}
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if not found:
            return self.status(200, headers, data)
        begin = int(found[1])
        headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self.status(206, headers, data[begin:])


def sha1(data):
    return hashlib.sha1(data).hexdigest()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def refusing(code, **headers):
    """A fault: that status, always."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, count: handler.status(code, sent)


def page(handler, count):
    """A fault: a web page, as a proxy sends it."""
    return handler.status(200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><html>Sign in")


def cut(after, data, times=1):
    """A fault: the connection ends after some bytes; once it did so, it ends at once."""

    def fault(handler, count):
        if handler.command == "HEAD" or count > times:
            return False
        handler.close_connection = True
        if count > 1:
            return True
        handler.send_response(200)
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("ETag", sha1(data))
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:after])
        return True

    return fault


def slow(data, pause=0.05, pieces=40):
    """A fault: the bytes come one piece at a time."""

    def fault(handler, count):
        if handler.command == "HEAD" or handler.headers.get("Range"):
            return False
        handler.send_response(200)
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        step = -(-len(data) // pieces)
        with contextlib.suppress(OSError):
            for begin in range(0, len(data), step):
                handler.wfile.write(data[begin : begin + step])
                time.sleep(pause)
        handler.close_connection = True
        return True

    return fault


@contextlib.contextmanager
def running():
    """A hub, while it is asked."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
