"""A headless Chromium that tests steer: open a page, wait for what it shows, look at it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import websocket_connect

BOUND_S = 20.0
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # a container's root may have no namespaces to build one of
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--window-size=1200,900",
)

_WAIT_FOR = """new Promise((done) => {
  const value = () => { try { return %s; } catch { return undefined; } };  // parts of the page may not be there yet
  const look = () => { const found = value(); if (found) { watcher.disconnect(); done(found); } };
  const watcher = new MutationObserver(look);
  watcher.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  look();
})"""


class Chromium:
    """
    One browser, which shows one page at a time. `close` it.

    Attributes
    ----------
    complaints : list of str
        Exceptions that scripts did not catch, and what the browser itself logged of the page (refused scripts, say).
    """

    def __init__(self, folder: Path) -> None:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            if os.environ.get("CI"):
                pytest.fail("expected chromium in continuous integration, found none; see tests/install-system-packages")
            pytest.skip(f"needs a browser, found none of {', '.join(NAMES)}")
        self.complaints: list[str] = []
        self._process: subprocess.Popen[str] = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._loop = asyncio.new_event_loop()
        self._n_commands = 0
        self._target = self._session = ""
        try:
            address = self._address()
            assert self._process.stderr is not None
            threading.Thread(target=self._process.stderr.read, name="chromium-stderr", daemon=True).start()
            self._socket = self._run(self._connect(address))
        except BaseException:
            self.close()
            raise

    def open(self, url: str) -> None:
        """Show this page instead of the one before."""
        if self._target:
            self._session = ""
            self._say("Target.closeTarget", targetId=self._target)
        self.complaints.clear()
        self._target = self._say("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._say("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._say(f"{domain}.enable")
        assert "errorText" not in self._say("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; of a promise, what it comes to."""
        answer = self._say("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self) -> str:
        """What a reader of the page sees."""
        return str(self.evaluate("document.body.innerText"))

    def wait_for(self, script: str) -> Any:
        """Wait until a JavaScript expression is true; the page is asked whenever it changes."""
        try:
            return self.evaluate(_WAIT_FOR % script)
        except TimeoutError:
            raise AssertionError(f"expected {script} within {BOUND_S} s, found the page:\n{self.text()}") from None

    def wait_for_text(self, text: str) -> None:
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._say("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(BOUND_S)
        self._loop.close()

    # --- the DevTools protocol -----------------------------------------------------------------------------------------

    def _address(self) -> str:
        assert self._process.stderr is not None
        said = ""
        for line in self._process.stderr:
            said += line
            found = re.search(r"DevTools listening on (ws://\S+)", line)
            if found:
                return found[1]
        raise AssertionError(f"expected chromium to start, found that it said\n{said}")

    def _run(self, awaitable: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(BOUND_S):
                return await awaitable

        return self._loop.run_until_complete(bounded())

    async def _connect(self, address: str) -> Any:
        return await websocket_connect(address, max_message_size=64 * 2**20)

    def _say(self, method: str, **parameters: Any) -> Any:
        self._n_commands += 1
        command = {"id": self._n_commands, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        return self._run(self._talk(command))

    async def _talk(self, command: dict[str, Any]) -> Any:
        await self._socket.write_message(json.dumps(command))
        while True:
            message = await self._socket.read_message()
            assert message is not None, "chromium has closed its connection"
            heard = json.loads(message)
            if heard.get("id") == command["id"]:
                assert "error" not in heard, heard
                return heard["result"]
            of_page = heard.get("sessionId") == self._session
            if of_page and heard.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(heard["params"]))
