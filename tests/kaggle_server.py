"""A Kaggle on 127.0.0.1 that speaks the client's protocol and fails on request.

The real `kaggle` client reaches it as an HTTP proxy: KAGGLE_API_ENVIRONMENT=LOCALHOST makes
the client's address `http://localhost`, and `http_proxy` brings every host here. Both stand in
`environment`, with a home of its own, so that no test can find a user's credentials or reach
the real site: without the proxy the requests would end at port 80 of this machine, and what is
asked of an https address arrives here as CONNECT and is refused.

Files live at an address that is signed and different every time, as at Google's storage, with
ranges, validators (RFC 9110) and the header x-goog-hash. Uploads follow Google's resumable
protocol: a PUT of everything, `Content-Range: bytes */N` to ask how far it came, 308 for "go on".
"""

import base64
import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import socket
import struct
import sys
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

STORAGE = "http://storage.test"
TOKEN = "KGAT_good"
KEY = "0123-an-older-key"
COMPETITION = "carvana-image-masking-challenge"
RULES = "You must accept this competition's rules before you'll be able to download files."


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip of these members, stored, the same bytes every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not repeat, so that a splice or a hole cannot go unnoticed."""
    block = hashlib.shake_256(str(seed).encode()).digest(min(size, 1 << 20))
    return (block * (size // max(len(block), 1) + 1))[:size]


@dataclass
class Blob:
    """A stored file. `data` is the bytes, or a path for files too large to hold."""

    data: bytes | Path
    served: str | None = None  # last part of its address; None: its name
    hashes: tuple[str, ...] = ("md5",)
    kind: str = "application/zip"
    listed: int | None = None  # size in the listing; None: the true one

    def size(self) -> int:
        return len(self.data) if isinstance(self.data, bytes) else self.data.stat().st_size

    def read(self, start: int = 0) -> Iterator[bytes]:
        if isinstance(self.data, bytes):
            yield self.data[start:]
            return
        with self.data.open("rb") as stream:
            stream.seek(start)
            while chunk := stream.read(1 << 20):
                yield chunk

    def md5(self) -> bytes:
        digest = hashlib.md5()
        for chunk in self.read():
            digest.update(chunk)
        return digest.digest()


@dataclass
class Fault:
    """How one answer of the storage differs from the right one."""

    status: int | None = None
    cut_at: int | None = None  # the connection closes before this byte of the file
    reset: bool = False  # ... with RST instead of FIN
    stall_at: int | None = None  # ... nothing comes for `seconds`, then it closes
    seconds: float = 3.0
    data: bytes | None = None  # other bytes than the file's
    length: bool = True
    validator: bool = True
    hashes: dict[str, str] | None = None
    ranges: bool = True
    kind: str | None = None
    if_range: bool = True  # False: a range is served whatever If-Range says
    lie_range: bool = False  # 206 whose body starts at byte 0
    headers: dict[str, str] = field(default_factory=dict)
    rate: float | None = None  # bytes a second
    drip_at: int | None = None  # from this byte on one comes every hundredth of a second
    waits: bool = False  # 100 Continue, for ever
    bare_206: bool = False  # 206 without being asked for a part


Reply = tuple[int, dict[str, Any] | None, dict[str, str]]  # None: an empty body


class KaggleServer(http.server.ThreadingHTTPServer):
    """State of the site: files, accounts, uploads, submissions, and the faults to come."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.competitions: dict[str, dict[str, Blob]] = {COMPETITION: {}}
        self.datasets: dict[str, Blob] = {}
        self.blob_faults: dict[str, list[Fault]] = defaultdict(list)
        self.api_faults: dict[str, list[Callable[[], Reply] | str]] = defaultdict(list)
        self.put_faults: list[str] = []
        self.log: list[str] = []
        self.sent: dict[str, int] = defaultdict(int)  # body bytes of each file that went out
        self.rules_accepted = True
        self.page_size = 200
        self.etags: dict[str, str] = {}
        self.uploads: dict[str, int] = {}  # bytes stored of each upload
        self.upload_sizes: dict[str, int] = {}
        self.upload_hashes: dict[str, Any] = {}  # SHA-256 of them
        self.submissions: list[dict[str, Any]] = []
        self.polls_until_scored = 0
        self.outcome: dict[str, Any] = {
            "status": "COMPLETE", "publicScore": "0.99621", "privateScore": "0.99588",
        }  # fmt: skip
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, what: str) -> int:
        return sum(what in line for line in self.log)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what many tests are about."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every small answer waits 40 ms for an acknowledgement
    server: KaggleServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.server.log.append(f"CONNECT {self.path}")
        self.send_error(403)

    def do_POST(self) -> None:
        method = urlsplit(self.path).path.rsplit("/", 1)[-1]
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self.server.log.append(f"POST {method} {self.headers.get('Authorization', '-')}")
        assert urlsplit(self.path).hostname == "localhost", self.path
        faults = self.server.api_faults[method]
        fault = faults.pop(0) if faults else None
        if fault == "drop":
            return self._close()
        if fault == "stall":
            time.sleep(3)
            return self._close()
        if fault == "page":
            return self._send(200, b"<html>sign in</html>", {"Content-Type": "text/html"})
        if fault in {"cut", "drip"}:  # a body that breaks off, or takes for ever
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(100 if fault == "drip" else 1):
                self.wfile.write(b" ")
                time.sleep(0.05)
            return self._close()
        if fault == "lost":
            getattr(self, method)(body)
            return self._close()
        reply = fault() if callable(fault) else self._authorised(method, body)
        if reply is not None:
            self._json(*reply)

    def _authorised(self, method: str, body: dict[str, Any]) -> Reply | None:
        who = self.headers.get("Authorization", "")
        key = "Basic " + base64.b64encode(f"alice:{KEY}".encode()).decode()
        if method != "IntrospectToken" and who not in {f"Bearer {TOKEN}", key}:
            return 401, {"code": 401, "message": "Unauthenticated"}, {}
        reply: Reply | None = getattr(self, method)(body)
        return reply

    def IntrospectToken(self, body: dict[str, Any]) -> Reply:
        if body["token"] != TOKEN:
            return 404, {"code": 404, "message": "Not found"}, {}
        return 200, {"active": True, "username": "alice"}, {}

    def ListDataFiles(self, body: dict[str, Any]) -> Reply:
        files = self.server.competitions.get(body["competitionName"])
        if files is None:
            return 404, {"code": 404, "message": "Competition not found"}, {}
        start = int(body.get("pageToken") or 0)
        end = start + min(self.server.page_size, body.get("pageSize", 20))
        rows = [
            {"name": name, "totalBytes": blob.size() if blob.listed is None else blob.listed,
             "creationDate": "2017-07-24T00:00:00Z"}
            for name, blob in list(files.items())[start:end]
        ]  # fmt: skip
        more = {"nextPageToken": str(end)} if end < len(files) else {}
        return 200, {"files": rows, **more}, {}

    def DownloadDataFile(self, body: dict[str, Any]) -> Reply:
        if not self.server.rules_accepted:
            return 403, {"code": 403, "message": RULES}, {}
        slug, name = body["competitionName"], body["fileName"]
        blob = self.server.competitions[slug][name]
        served = quote(blob.served or name)
        return self._redirect(f"/competitions/{slug}/{served}", name)

    def DownloadDataset(self, body: dict[str, Any]) -> Reply:
        slug = f"{body['ownerSlug']}/{body['datasetSlug']}"
        if slug not in self.server.datasets:
            return 404, {"code": 404, "message": "Dataset not found"}, {}
        return self._redirect(f"/datasets/{slug}/bundle/archive.zip", slug)

    def _redirect(self, path: str, name: str) -> Reply:
        signature = f"X-Name={quote(name)}&X-Signature={len(self.server.log)}"
        return 302, {}, {"Location": f"{STORAGE}{path}?{signature}"}

    def StartSubmissionUpload(self, body: dict[str, Any]) -> Reply:
        token = f"upload{len(self.server.uploads)}"
        self.server.uploads[token] = 0
        self.server.upload_hashes[token] = hashlib.sha256()
        self.server.upload_sizes[token] = body.get("contentLength", 0)
        return 200, {"token": token, "createUrl": f"{STORAGE}/upload/{token}?sig=1"}, {}

    def CreateSubmission(self, body: dict[str, Any]) -> Reply:
        token = body["blobFileTokens"]
        assert self.server.uploads[token] == self.server.upload_sizes[token], "not uploaded"
        ref = 1000 + len(self.server.submissions)
        self.server.submissions.append({
            "ref": ref, "fileName": "submit.csv.gz", "date": "2026-01-02T03:04:05.1234567Z",
            "description": body.get("submissionDescription", ""), "status": "PENDING",
            "polls": self.server.polls_until_scored,
        })  # fmt: skip
        return 200, {"message": "Successfully submitted", "ref": ref}, {}

    def ListSubmissions(self, body: dict[str, Any]) -> Reply:
        start = int(body.get("pageToken") or 0)
        end = start + min(self.server.page_size, body.get("pageSize", 20))
        newest_first = self.server.submissions[::-1]
        more = {"nextPageToken": str(end)} if end < len(newest_first) else {}
        return 200, {"submissions": [self._shown(s) for s in newest_first[start:end]], **more}, {}

    def GetSubmission(self, body: dict[str, Any]) -> Reply:
        for submission in self.server.submissions:
            if submission["ref"] == body["ref"]:
                if submission["polls"] <= 0:
                    submission.update(self.server.outcome)
                submission["polls"] -= 1
                return 200, self._shown(submission), {}
        return 404, {"code": 404, "message": "No such submission"}, {}

    def _shown(self, submission: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in submission.items() if key != "polls"}

    def do_PUT(self) -> None:
        token = urlsplit(self.path).path.rsplit("/", 1)[-1]
        asks = re.fullmatch(r"bytes \*/(\d+)", self.headers.get("Content-Range", ""))
        self.server.log.append(f"PUT {'status ' if asks else ''}{token}")
        if asks:
            return self._upload_state(token)
        fault = self.server.put_faults.pop(0) if self.server.put_faults else ""
        if fault == "stop reading":
            time.sleep(4)
            return self._close()
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", self.headers.get("Content-Range", ""))
        if match:
            size = self.server.upload_sizes[token]
            assert (int(match[2]), int(match[3])) == (size - 1, size), "a range of another file"
        start = int(match[1]) if match else 0
        limit = int(fault.split()[1]) if fault.startswith(("drop", "keep")) else None
        assert start in (0, self.server.uploads[token]), "a part that does not follow"
        if not start:
            self.server.upload_hashes[token] = hashlib.sha256()
        self.server.uploads[token] = start + self._read(limit, self.server.upload_hashes[token])
        if fault.startswith("drop"):
            return self._close()
        if fault.startswith("keep"):  # all is read, a part is kept
            self.rfile.read(int(self.headers["Content-Length"]) - int(fault.split()[1]))
        if fault.isdigit():
            self.server.uploads[token] = 0
            return self._send(int(fault), b"Backend Error", {})
        self._upload_state(token)

    def _read(self, limit: int | None, digest: Any) -> int:
        """Take in the body, or `limit` bytes of it; return how many came."""
        length, taken = int(self.headers["Content-Length"]), 0
        until = length if limit is None else min(limit, length)
        while taken < until:
            piece = self.rfile.read(min(1 << 20, until - taken))
            if not piece:
                break
            digest.update(piece)
            taken += len(piece)
        return taken

    def _upload_state(self, token: str) -> None:
        have, size = self.server.uploads[token], self.server.upload_sizes[token]
        if have == size:
            return self._send(200, b"", {})
        self._send(308, b"", {"Range": f"bytes=0-{have - 1}"} if have else {})

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        assert url.hostname == "storage.test" and "X-Signature" in url.query, self.path
        assert "Authorization" not in self.headers, "credentials must not reach the storage"
        name = parse_qs(url.query)["X-Name"][0]
        parts = unquote(url.path).split("/")
        blob = self.server.datasets.get(name) or self.server.competitions[parts[2]][name]
        asked = self.headers.get("Range", "")
        self.server.log.append(f"GET {name} {asked}".strip())
        with self.server.lock:
            faults = self.server.blob_faults[name]
            fault = faults.pop(0) if faults else Fault()
        while fault.waits:  # ends when nobody listens any more
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)
        if fault.status:
            self._send(fault.status, b"<Error>ExpiredToken</Error>" * 400, fault.headers)
            return
        self._serve(name, blob if fault.data is None else Blob(fault.data), blob, fault)

    def _serve(self, name: str, blob: Blob, truth: Blob, fault: Fault) -> None:
        etag = self.server.etags.get(name, '"v1"')
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        current = self.headers.get("If-Range") in {etag, None} or not fault.if_range
        start, status = 0, 200
        headers = {"Content-Type": fault.kind or truth.kind, **fault.headers}
        if asked and fault.ranges and current:
            start, status = int(asked[1]), 206
            headers["Content-Range"] = f"bytes {start}-{blob.size() - 1}/{blob.size()}"
            if fault.lie_range:
                headers["Content-Range"] = f"bytes 0-{blob.size() - 1}/{blob.size()}"
                start = 0
        status = 206 if fault.bare_206 else status
        if fault.ranges:
            headers["Accept-Ranges"] = "bytes"
        if fault.validator:
            headers["ETag"] = etag
            headers["Last-Modified"] = "Mon, 24 Jul 2017 00:00:00 GMT"
        if fault.length:
            headers["Content-Length"] = str(blob.size() - start)
        else:
            headers["Connection"] = "close"
        hashes = self._hashes(truth) if fault.hashes is None else fault.hashes
        if hashes:
            headers["x-goog-hash"] = ",".join(f"{k}={v}" for k, v in hashes.items())
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self._body(name, blob, start, fault)
        if not fault.length:
            self._close()

    def _hashes(self, blob: Blob) -> dict[str, str]:
        hashes = {}
        if "md5" in blob.hashes:
            hashes["md5"] = base64.b64encode(blob.md5()).decode()
        if "crc32c" in blob.hashes:
            hashes["crc32c"] = base64.b64encode(_crc32c(b"".join(blob.read()))).decode()
        return hashes

    def _body(self, name: str, blob: Blob, start: int, fault: Fault) -> None:
        at = start
        stop = fault.cut_at if fault.cut_at is not None else fault.stall_at
        for chunk in blob.read(start):
            for i in range(0, len(chunk), 1 << 16):
                piece = chunk[i : i + (1 << 16)]
                if stop is not None and at + len(piece) > stop:
                    piece = piece[: max(stop - at, 0)]
                if fault.drip_at is not None and at + len(piece) > fault.drip_at:
                    self.wfile.write(piece[: max(fault.drip_at - at, 0)])
                    for byte in piece[max(fault.drip_at - at, 0) :]:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.01)
                    return self._close()
                self.wfile.write(piece)
                self.server.sent[name] += len(piece)
                at += len(piece)
                if stop is not None and at >= stop:
                    if fault.stall_at is not None:
                        time.sleep(fault.seconds)
                    return self._close(fault.reset)
                if fault.rate:
                    time.sleep(len(piece) / fault.rate)

    def _json(self, status: int, body: dict[str, Any] | None, headers: dict[str, str]) -> None:
        kind = {"Content-Type": "application/json"}
        data = b"" if body is None else json.dumps(body).encode()
        self._send(status, data, {**kind, **headers})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _close(self, reset: bool = False) -> None:
        self.close_connection = True
        self.wfile.flush()
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            return
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _crc32c(data: bytes) -> bytes:
    """CRC-32C bit by bit, as the standard words it: slow, and no copy of the code under test."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return (value ^ 0xFFFFFFFF).to_bytes(4, "big")


def environment(server: KaggleServer, home: Path, token: str | None = TOKEN) -> dict[str, str]:
    """Variables under which the client can reach `server` and nothing else."""
    kept = {k: v for k, v in os.environ.items() if not _is_dangerous(k)}
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), server.url)
    alone = {"no_proxy": "", "NO_PROXY": "", "HOME": str(home), "XDG_CONFIG_HOME": str(home / "x")}
    settings = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST"}
    if token:
        settings["KAGGLE_API_TOKEN"] = token
    return {**kept, **proxies, **alone, **settings}


def _is_dangerous(name: str) -> bool:
    """Credentials, other sites, other proxies, and folders of data."""
    name = name.upper()
    return name.startswith(("KAGGLE_", "VERBOSE")) or name in {"ALL_PROXY", "PIPELINE_DATA"}


@contextlib.contextmanager
def serving(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    """Run a server, with this process's environment turned to it; see the module's text."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back after each command
    server = KaggleServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    for name in set(os.environ) | set(wanted := environment(server, home)):
        if name not in wanted:
            monkeypatch.delenv(name)
        elif os.environ.get(name) != wanted[name]:
            monkeypatch.setenv(name, wanted[name])
    try:
        if "kaggle" in sys.modules:  # imported by an earlier test: it must have been this way
            from kaggle.api.kaggle_api_extended import KaggleApi

            assert KaggleApi.args == ["--local"], "the client was imported for the real site"
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert not server.count("CONNECT"), f"a test asked for an https address: {server.log}"
