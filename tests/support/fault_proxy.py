# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proxy between the engine and an S3 server that does to order what networks and stores do on bad days.

    with FaultProxy("http://127.0.0.1:9000") as proxy:
        proxy.add(cut_answer, method="PUT", key="-claim")    # the next PUT of a claim arrives, its answer does not
        proxy.add(refuse("403", "AccessDenied"), skip=10, times=None)    # from the eleventh request on, for ever

It leaves the Host header alone, so signatures stay right.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Answer:
    """What the store said."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Exchange:
    """One request on its way.

    Attributes:
        method, path, headers, body: of the request; a fault may change the body before it calls `forward`.
        handler: to answer with, or to cut.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    handler: Handler

    def forward(self) -> Answer:
        """Ask the store."""
        parts = urlsplit(self.handler.server.upstream)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            connection.request(self.method, self.path, self.body, self.headers)
            response = connection.getresponse()
            if self.method == "PUT" and response.status == 200:
                with self.handler.server.lock:
                    self.handler.server.stored[unquote(urlsplit(self.path).path)] += 1
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def answer(self, answer: Answer, *, cut_after: int | None = None) -> None:
        """Give an answer, or only so many bytes of its body before the connection ends."""
        handler = self.handler
        handler.send_response(answer.status)
        for name, value in answer.headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                handler.send_header(name, value)
        if answer.status != 204:
            handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        if self.method != "HEAD":
            handler.wfile.write(answer.body if cut_after is None else answer.body[:cut_after])
        if cut_after is not None:
            handler.close_connection = True


# Takes the place of the usual way of a request.
Fault = Callable[[Exchange], None]


def cut(exchange: Exchange) -> None:
    """The request never arrives."""
    exchange.handler.close_connection = True


def cut_answer(exchange: Exchange) -> None:
    """The store does what was asked, and its answer is lost."""
    exchange.forward()
    exchange.handler.close_connection = True


def cut_body(exchange: Exchange) -> None:
    """Half of the answer's body arrives."""
    answer = exchange.forward()
    exchange.answer(answer, cut_after=len(answer.body) // 2)


def flip_sent(exchange: Exchange) -> None:
    """One bit of what is sent is another one when it arrives."""
    if exchange.body:
        middle = len(exchange.body) // 2
        exchange.body = exchange.body[:middle] + bytes([exchange.body[middle] ^ 1]) + exchange.body[middle + 1 :]
    exchange.answer(exchange.forward())


def flip_received(exchange: Exchange) -> None:
    """One bit of what comes back is another one."""
    answer = exchange.forward()
    if answer.body:
        middle = len(answer.body) // 2
        answer.body = answer.body[:middle] + bytes([answer.body[middle] ^ 1]) + answer.body[middle + 1 :]
    exchange.answer(answer)


def refuse(status: int, code: str) -> Fault:
    """An answer of the store's own error form."""
    body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return lambda exchange: exchange.answer(Answer(status, [("Content-Type", "application/xml")], body))


def succeed_with(body: bytes) -> Fault:
    """200, and a body that says something else."""
    return lambda exchange: exchange.answer(Answer(200, [], body))


def delay(seconds: float) -> Fault:
    """The usual answer, late."""

    def late(exchange: Exchange) -> None:
        time.sleep(seconds)
        exchange.answer(exchange.forward())

    return late


def short_list(exchange: Exchange) -> None:
    """A listing that lacks everything and does not say so."""
    answer = exchange.forward()
    answer.body = re.sub(rb"<Contents>.*</Contents>", b"", answer.body, flags=re.DOTALL)
    exchange.answer(answer)


@dataclass
class Rule:
    """When a fault happens."""

    fault: Fault
    method: str
    key: re.Pattern[str]
    skip: int
    times: int | None
    seen: int = field(default=0)

    def takes(self, exchange: Exchange) -> bool:
        if self.method not in ("", exchange.method) or not self.key.search(unquote(exchange.path)):
            return False
        self.seen += 1
        return self.seen > self.skip and (self.times is None or self.seen <= self.skip + self.times)


class FaultProxy(ThreadingHTTPServer):
    """Use it in a `with` block.

    Attributes:
        upstream: URL of the store.
        rules: the first that takes a request has it.
        requests: how many there were.
        stored: how often the store took each key.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.rules: list[Rule] = []
        self.requests = 0
        self.stored: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, fault: Fault, *, method: str = "", key: str = "", skip: int = 0, times: int | None = 1) -> None:
        """Let a fault happen.

        Args:
            fault: one of the above.
            method: of the requests that it concerns; any by default. A listing is a GET.
            key: regular expression that the path with its query must have.
            skip: so many of those pass first.
            times: so many of those behind them suffer; None for all.
        """
        self.rules.append(Rule(fault, method, re.compile(key), skip, times))

    def heal(self) -> None:
        """No more faults."""
        self.rules = []

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news here."""

    def __enter__(self) -> FaultProxy:
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    """One request at a time of a kept connection."""

    server: FaultProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")}
        exchange = Exchange(self.command, self.path, headers, body, self)
        with self.server.lock:
            self.server.requests += 1
            rule = next((rule for rule in self.server.rules if rule.takes(exchange)), None)
        if rule is not None:
            rule.fault(exchange)
        else:
            exchange.answer(exchange.forward())

    do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = _pass  # noqa: N815
