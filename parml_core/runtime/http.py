"""
The scheduler's HTTP server: the status page, health and metrics. On loopback only, and read-only.

Pages of other origins cannot read it through the user's browser: a request has to name this host (which stops DNS
rebinding), a websocket has to come from this origin, and the page runs no script but its own files. Everything that comes
from tasks is put into the page as text.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.ioloop import PeriodicCallback
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RedirectHandler, RequestHandler
from tornado.websocket import WebSocketHandler

from parml_core.errors import ConfigError, NotSupported
from parml_core.observe.metrics import CONTENT_TYPE, render

log = logging.getLogger("parml.http")

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")
PERIOD_MS = 500

Snapshot = Callable[[], dict[str, Any]]

_FILES = {
    "status": ("status.html", "text/html; charset=utf-8"),
    "status.js": ("status.js", "text/javascript; charset=utf-8"),
    "status.css": ("status.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}


def _check_host(handler: RequestHandler) -> None:
    """Refuse a request that was sent to another name than this server's own."""
    name = handler.request.host.rpartition(":")[0] or handler.request.host
    if name not in NAMES:
        raise HTTPError(403, reason="Host Not Served Here")


class _Handler(RequestHandler):
    def initialize(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def prepare(self) -> None:
        _check_host(self)

    def set_default_headers(self) -> None:
        self.set_header("Server", "parml")
        self.set_header("Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code} {self._reason}\n")  # no part of the request is repeated


class _Health(_Handler):
    """Says that the scheduler's loop turns."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write("ok\n")


class _Metrics(_Handler):
    def get(self) -> None:
        try:
            body = render(self.snapshot())
        except NotSupported as error:
            self.set_status(501)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.write(f"{error}\n")
            return
        self.set_header("Content-Type", CONTENT_TYPE)
        self.write(body)


class _Page(_Handler):
    def get(self, name: str) -> None:
        file, content_type = _FILES[name]
        self.set_header("Content-Type", content_type)
        self.write(files("parml_core.dashboard").joinpath("static", file).read_bytes())


class _NotFound(_Handler):
    def get(self) -> None:
        raise HTTPError(404)


class _Live(WebSocketHandler):
    """Sends the scheduler's state twice a second, as long as it changes."""

    def initialize(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._last = ""

    def prepare(self) -> None:
        _check_host(self)

    def check_origin(self, origin: str) -> bool:
        return origin == f"http://{self.request.host}"

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        self._timer = PeriodicCallback(self._send, PERIOD_MS)
        self._timer.start()
        self._send()

    def on_message(self, message: str | bytes) -> None:
        self.close(1003, "this page only listens")

    def on_close(self) -> None:
        if hasattr(self, "_timer"):
            self._timer.stop()

    def _send(self) -> None:
        text = json.dumps(self.snapshot())
        if text != self._last:
            self._last = text
            self.write_message(text)


class HttpServer:
    """
    A running server. Make one with `start`.

    Attributes
    ----------
    url : str
        Of the status page.
    """

    def __init__(self, server: HTTPServer, port: int) -> None:
        self._server = server
        self.url = f"http://{HOST}:{port}/status"

    @classmethod
    async def start(cls, snapshot: Snapshot, *, port: int) -> HttpServer:
        """Serve on loopback, on `port` (0: any; one that is taken: any)."""
        if not 0 <= port <= 65535:
            raise ConfigError(f"expected a port of the status page from 0 to 65535, found {port}")
        try:
            sockets = bind_sockets(port, HOST)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            sockets = bind_sockets(0, HOST)
            log.info("port %d is in use: the status page is on port %d", port, sockets[0].getsockname()[1])
        given = {"snapshot": snapshot}
        application = Application(
            [
                ("/", RedirectHandler, {"url": "/status", "permanent": False}),
                ("/health", _Health, given),
                ("/metrics", _Metrics, given),
                ("/live", _Live, given),
                (r"/(status|status\.js|status\.css|icon\.svg)", _Page, given),
            ],
            default_handler_class=_NotFound,
            default_handler_args=given,
            websocket_ping_interval=20,
            websocket_max_message_size=1024,
            log_function=lambda handler: None,
        )
        server = HTTPServer(application, max_body_size=64 * 1024, max_header_size=16 * 1024)
        server.add_sockets(sockets)
        return cls(server, sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()
