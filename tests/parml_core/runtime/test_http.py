"""The scheduler's HTTP server: what it serves, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClosedError, websocket_connect

from parml_core.kernel.scheduler import SchedulerKernel
from parml_core.runtime.http import HttpServer


def serve(test: Callable[[str], Any], snapshot: Callable[[], dict[str, Any]] | None = None) -> Any:
    """Run `test(base_url)` on a thread while a server serves; coroutines run on the server's loop."""

    async def run() -> Any:
        server = await HttpServer.start(snapshot or SchedulerKernel().snapshot, port=0)
        base = server.url.removesuffix("/status")
        try:
            async with asyncio.timeout(20):
                if asyncio.iscoroutinefunction(test):
                    return await test(base)
                return await asyncio.to_thread(test, base)
        finally:
            await server.stop()

    return asyncio.run(run())


def get(url: str, **headers: str) -> tuple[int, dict[str, str], str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def test_health_of_a_running_scheduler_is_ok() -> None:
    """A load balancer or a script sees that the scheduler's loop turns."""
    assert serve(lambda base: get(f"{base}/health")[::2]) == (200, "ok\n")


def test_metrics_show_the_counts_of_the_kernel() -> None:
    """What Prometheus scrapes is what the kernel says."""
    state = SchedulerKernel().snapshot()
    state["tasks"]["memory"] = 7
    state["counters"]["finished"] = 9
    status, headers, body = serve(lambda base: get(f"{base}/metrics"), lambda: state)
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'parml_tasks{state="memory"} 7.0' in body
    assert "parml_finished_total 9.0" in body


@pytest.mark.parametrize("path", ["/status", "/metrics", "/health", "/status.js"])
def test_request_that_names_another_host_is_refused(path: str) -> None:
    """A page of another origin whose name was re-bound to loopback gets nothing."""
    assert serve(lambda base: get(f"{base}{path}", Host="evil.example:8787")[0]) == 403


def test_unknown_path_is_not_repeated_in_the_error_page() -> None:
    """The text of a request never comes back, so it cannot become markup."""
    status, headers, body = serve(lambda base: get(f"{base}/%3Cscript%3Ealert(1)%3C/script%3E"))
    assert status == 404
    assert "script" not in body
    assert headers["Content-Type"].startswith("text/plain")


def test_page_forbids_scripts_and_frames_of_others() -> None:
    """The browser is told to run nothing but the page's own files, and to show it in no frame."""
    _, headers, body = serve(lambda base: get(f"{base}/status"))
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "<script src=" in body
    assert "onclick" not in body


def test_live_state_is_sent_at_once_and_when_it_changes() -> None:
    """The page sees a change within a second or so, without asking."""
    state = SchedulerKernel().snapshot()

    async def talk(base: str) -> list[int]:
        request = HTTPRequest(f"{base.replace('http', 'ws')}/live", headers={"Origin": base})
        connection = await websocket_connect(request)
        seen = [json.loads(await connection.read_message())["tasks"]["memory"]]
        state["tasks"]["memory"] = 5
        seen.append(json.loads(await connection.read_message())["tasks"]["memory"])
        connection.close()
        return seen

    assert serve(talk, lambda: state) == [0, 5]


def test_live_state_is_refused_to_pages_of_other_origins() -> None:
    """A website that the user visits cannot listen to the cluster."""

    async def talk(base: str) -> int:
        request = HTTPRequest(f"{base.replace('http', 'ws')}/live", headers={"Origin": "http://evil.example"})
        with pytest.raises(HTTPClientError) as caught:
            await websocket_connect(request)
        return caught.value.code

    assert serve(talk) == 403


def test_message_to_the_live_page_closes_it() -> None:
    """The page is read-only: whoever talks to it is shown out."""

    async def talk(base: str) -> Any:
        connection = await websocket_connect(HTTPRequest(f"{base.replace('http', 'ws')}/live", headers={"Origin": base}))
        await connection.read_message()
        try:
            await connection.write_message("shutdown")
        except WebSocketClosedError:
            return None
        while (message := await connection.read_message()) is not None:
            assert json.loads(message)
        return connection.close_code

    assert serve(talk) == 1003


def test_port_in_use_is_replaced_by_a_free_one() -> None:
    """Two clusters on one machine both get a page."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def run() -> str:
            server = await HttpServer.start(SchedulerKernel().snapshot, port=port)
            await server.stop()
            return server.url

        url = asyncio.run(run())
    assert url.startswith("http://127.0.0.1:")
    assert f":{port}/" not in url
