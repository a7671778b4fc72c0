# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small S3 server of our own that misbehaves to order. It checks no signatures; radosgw on a test host does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Fault = Callable[["Handler"], bool]


class S3Server(ThreadingHTTPServer):
    """Use it in a `with` block.

    Attributes:
        objects: key -> content.
        condition: what a conditional PUT does: `honoured`, `ignored` or `501`.
        page: keys per page of a listing.
        faults: each takes one request; it answers it and returns True, or returns False for the usual answer.
        requests: (method, key) of all requests.
        lost_answers: to so many writes that succeed nothing is answered.
        encryption: what it says of an object's encryption, where it says something.
    """

    daemon_threads = True

    def __init__(self, condition: str = "honoured", page: int = 1000) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.condition = condition
        self.page = page
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lost_answers = 0
        self.encryption: str | None = None
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> S3Server:
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    """One request at a time of a kept connection."""

    server: S3Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def error(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def cut(self) -> bool:
        """End the connection in the middle of nothing."""
        self.close_connection = True
        return True

    def _begin(self) -> tuple[str, dict[str, list[str]], bytes]:
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix("/bucket").removeprefix("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, key))
        return key, parse_qs(parts.query, keep_blank_values=True), body

    def _faulty(self) -> bool:
        return bool(self.server.faults) and self.server.faults.pop(0)(self)

    def do_PUT(self) -> None:
        key, _, body = self._begin()
        if self._faulty():
            return
        conditional = self.headers.get("If-None-Match") == "*"
        with self.server.lock:
            if conditional and self.server.condition == "501":
                self.error(501, "NotImplemented")
            elif conditional and self.server.condition == "honoured" and key in self.server.objects:
                self.error(412, "PreconditionFailed")
            else:
                self.server.objects[key] = body
                self._acknowledge(body)

    def _acknowledge(self, body: bytes) -> None:
        if self.server.lost_answers:
            self.server.lost_answers -= 1
            self.cut()
        elif self.server.encryption is None:
            self.answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
        else:  # as AWS does with a KMS key: the ETag looks like an MD5 and is none of the content
            etag = hashlib.md5(b"encrypted" + body).hexdigest()
            self.answer(200, ETag=f'"{etag}"', x_amz_server_side_encryption=self.server.encryption)

    def do_GET(self) -> None:
        key, query, _ = self._begin()
        if self._faulty():
            return
        if not key:
            self._list(query)
        elif key not in self.server.objects:
            self.error(404, "NoSuchKey")
        else:
            content, status = self.server.objects[key], 200
            if wanted := self.headers.get("Range"):
                first, last = wanted.removeprefix("bytes=").split("-")
                content, status = content[int(first) : int(last) + 1], 206
            self.answer(status, content)

    def do_DELETE(self) -> None:
        key, _, _ = self._begin()
        self.server.objects.pop(key, None)
        self.answer(204)

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        keys = sorted(key for key in self.server.objects if key.startswith(prefix) and key > after)
        page, rest = keys[: self.server.page], keys[self.server.page :]
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size>"
            "<LastModified>2026-03-01T02:00:00.000Z</LastModified></Contents>"
            for key in page
        )
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
        truncated = "true" if rest else "false"
        text = f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{items}</ListBucketResult>"
        self.answer(200, text.encode())
