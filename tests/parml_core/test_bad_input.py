"""What a user may get wrong: each mistake is told on the caller's side, at once, and the cluster goes on working."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parml_core.client import Client, LocalCluster
from parml_core.errors import (
    AddressError,
    AuthenticationError,
    ClusterError,
    ConfigError,
    CycleError,
    GangError,
    MissingKeyError,
    NotSupported,
    ParmlError,
    ProtocolError,
    SchedulerLost,
    SerializationError,
)
from parml_core.graph import Graph, Ref, Task

BOUND_S = 20.0
ROOT = Path(__file__).resolve().parents[2]
SECRET = b"x" * 32


@pytest.fixture
def client(cluster_client: Client) -> Iterator[Client]:
    yield cluster_client
    assert cluster_client.gather(cluster_client.map(abs, range(-3, 3)), timeout_s=BOUND_S) == [3, 2, 1, 0, 1, 2]


def is_helpful(error: BaseException) -> bool:
    """Whether a message says what was expected and what was found."""
    return "expected" in str(error) and "found" in str(error)


# --- where there is no scheduler ---------------------------------------------------------------------------------------


class Stranger:
    """Something that is no scheduler, on a port of this machine."""

    def __init__(self, says: bytes, *, hangs_up: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._says, self._hangs_up = says, hangs_up
        self._callers: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            caller.sendall(self._says)
            if self._hangs_up:
                caller.close()
            else:
                self._callers.append(caller)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(BOUND_S)
        for caller in self._callers:
            caller.close()


@pytest.fixture(
    params=[
        (
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            False,
            ProtocolError,
            "another protocol",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False, ProtocolError, "another protocol"),
        (os.urandom(1000), True, (ProtocolError, AddressError), "expected a parml"),
        (b"", False, AddressError, "within 1 s"),
        (b"", True, AddressError, "within 1 s"),
    ],
    ids=["http", "ssh", "noise", "silent", "hangs-up"],
)
def stranger(request: pytest.FixtureRequest) -> Iterator[tuple[Stranger, Any, str]]:
    says, hangs_up, error, text = request.param
    stranger = Stranger(says, hangs_up=hangs_up)
    yield stranger, error, text
    stranger.close()


def test_address_of_another_kind_of_server_is_told_in_time(stranger: tuple[Stranger, Any, str]) -> None:
    """A wrong port is the commonest mistake: whatever answers there, or does not, the error says so."""
    server, error, text = stranger
    began = time.monotonic()
    with pytest.raises(error, match=text) as caught:
        Client(server.address, secret=SECRET, timeout_s=1, set_default=False)
    assert time.monotonic() - began < 2
    assert is_helpful(caught.value)


def test_worker_command_at_another_kind_of_server_ends_with_one_line(stranger: tuple[Stranger, Any, str]) -> None:
    """The command does not hang, does not restart for ever, and shows no traceback."""
    server, _, text = stranger
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PARML_SECRET": SECRET.hex(), "PARML_COMM__CONNECT_TIMEOUT_S": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "parml_core.cli", "worker", server.address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 1 and text in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_port_of_another_kind_of_server_is_named_when_a_scheduler_wants_it(tmp_path: Path) -> None:
    """A busy port is an error that names it, whoever has it."""
    stranger = Stranger(b"", hangs_up=True)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "parml_core.cli", "scheduler", "--no-dashboard", "--port", str(stranger.port)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PARML_SCHEDULER_FILE": str(tmp_path / "s.json")},
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
    finally:
        stranger.close()
    assert done.returncode == 1 and str(stranger.port) in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert "in use" in done.stderr and not list(tmp_path.iterdir())


def test_status_page_given_as_the_scheduler_is_told() -> None:
    """The two addresses stand next to each other on the screen."""
    with LocalCluster(1, dashboard_port=0) as cluster:
        assert cluster.dashboard_url is not None
        wrong = cluster.dashboard_url.replace("http", "tcp").removesuffix("/status")
        with pytest.raises((ProtocolError, AddressError), match="expected a parml"):
            Client(wrong, secret=cluster.secret, timeout_s=1, set_default=False)
        with Client(cluster, set_default=False) as client:
            assert client.submit(abs, -1).result(BOUND_S) == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file"),
        (b"", "is none"),
        (b"\x00\xff" * 50, "is none"),
        (b"[1, 2]", "is none"),
        (b'{"address": "tcp://127.0.0.1:1"}', "secret"),
        (b'{"address": "tcp://127.0.0.1:1", "secret": "not hexadecimal"}', "hexadecimal"),
        (b'{"address": "ftp://127.0.0.1:1", "secret": "%s"}' % (b"ab" * 32), "tcp://127.0.0.1:8786"),
        (b'{"address": "tcp://127.0.0.1:1", "secret": "%s"}' % (b"ab" * 32), "127.0.0.1:1"),
    ],
    ids=["missing", "empty", "binary", "list", "no-secret", "bad-secret", "bad-address", "stale"],
)
def test_scheduler_file_that_is_of_no_use_is_told(tmp_path: Path, content: bytes | None, text: str) -> None:
    """Missing, something else, or of a cluster that has ended."""
    path = tmp_path / "s.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ConfigError, AddressError), match=text) as caught:
        Client(path, timeout_s=1, set_default=False)
    assert is_helpful(caught.value) and "ab" * 32 not in str(caught.value)


def test_scheduler_file_of_a_former_cluster_on_the_same_port_is_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    """The address is right, the secret is yesterday's."""
    path = tmp_path / "s.json"
    path.write_text(f'{{"address": "{cluster.scheduler_address}", "secret": "{"ab" * 32}"}}')
    with pytest.raises(AuthenticationError, match="this cluster's scheduler file"):
        Client(path, timeout_s=1, set_default=False)


@pytest.mark.parametrize(
    ("address", "secret", "error"),
    [
        ("127.0.0.1:1", None, AddressError),
        ("tcp://127.0.0.1:1", "zz", ConfigError),
        ("tcp://127.0.0.1:1", "ab", ConfigError),
        ("tcp://127.0.0.1", SECRET, AddressError),
        ("tcp://127.0.0.1:99999", SECRET, AddressError),
        ("tcp://no.such.host.invalid:8786", SECRET, AddressError),
    ],
)
def test_address_or_secret_that_cannot_be_is_told(
    monkeypatch: pytest.MonkeyPatch, address: str, secret: Any, error: type[ParmlError]
) -> None:
    """Before anything is sent; the secret is not repeated."""
    monkeypatch.delenv("PARML_SECRET", raising=False)
    with pytest.raises(error) as caught:
        Client(address, secret=secret, timeout_s=1, set_default=False)
    assert is_helpful(caught.value)
    assert secret is None or str(secret) not in str(caught.value)


# --- a cluster that cannot be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_workers": -1}, "n_workers"),
        ({"n_workers": "two"}, "'two'"),
        ({"n_workers": 1.5}, "1.5"),
        ({"n_workers": 1, "threads_per_worker": 0}, "threads_per_worker"),
        ({"n_workers": 1, "memory_limit": -5}, "-5"),
        ({"n_workers": 1, "dashboard_port": 99999}, "99999"),
        ({"n_workers": 1, "settings": {"worker": {"heartbeat_s": "soon"}}}, "soon"),
        ({"n_workers": 1, "settings": {"worker": {"heartbeat_s": 60.0}}}, "worker_timeout_s"),
    ],
    ids=str,
)
def test_cluster_with_options_that_cannot_be_is_told(options: dict[str, Any], text: str) -> None:
    """The option and its value are named, and no process stays behind (which the guard of all tests sees to)."""
    with pytest.raises((ConfigError, ClusterError), match=text) as caught:
        LocalCluster(**{"dashboard_port": None, **options})
    assert is_helpful(caught.value)


# --- calls that cannot be ----------------------------------------------------------------------------------------------


class BreaksOnLoading:
    """Pickles here, and nowhere unpickles."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Holder:
    def __init__(self, content: Any) -> None:
        self.content = content


def returns_lock(x: int) -> Any:
    return threading.Lock()


def cyclic() -> Graph:
    return Graph([Task("a", abs, (Ref("b"),)), Task("b", abs, (Ref("a"),))])


CALLS: dict[str, tuple[Callable[[Client], Any], Any, str]] = {
    "a cycle": (lambda c: c.submit_graph(cyclic(), ["a"]), CycleError, "a → b → a|b → a → b"),
    "a wanted key that no task makes": (
        lambda c: c.submit_graph(Graph([Task("a", abs, (1,))]), ["z"]),
        MissingKeyError,
        "'z'",
    ),
    "a dict for a graph": (lambda c: c.submit_graph({"a": 1}, ["a"]), TypeError, "found a dict"),
    "no function": (lambda c: c.submit(5), TypeError, "callable, found 5"),
    "an argument that cannot be pickled": (lambda c: c.submit(id, threading.Lock()), SerializationError, "lock"),
    "a large argument that cannot be pickled": (
        lambda c: c.submit(id, [np.ones(100_000), threading.Lock()]),
        SerializationError,
        "lock",
    ),
    "a scattered value that cannot be pickled": (lambda c: c.scatter([1, threading.Lock()]), SerializationError, "lock"),
    "a keyword that cannot be pickled": (
        lambda c: c.map(print, [1], file=threading.Lock()),
        SerializationError,
        "lock",
    ),
    "a rank's argument that cannot be pickled": (lambda c: c.gang(id, [(threading.Lock(),)]), SerializationError, "lock"),
    "a future inside an object": (
        lambda c: c.submit(id, Holder(c.submit(abs, 1))),
        (SerializationError, NotSupported),
        "argument of its own",
    ),
    "something that is no future": (lambda c: c.gather([1]), ValueError, "found 1"),
    "a wait for nobody knows what": (lambda c: c.wait([], until="some"), ValueError, "'some'"),  # type: ignore[arg-type]
    "fewer copies than none": (lambda c: c.scatter([1], replicas=-1), ValueError, "-1"),
    "places for other ranks": (lambda c: c.gang(abs, [(1,), (2,)], where=[["w"]]), ValueError, "2 ranks"),
}


@pytest.mark.parametrize("name", CALLS)
def test_call_that_cannot_be_is_told_at_the_call(client: Client, name: str) -> None:
    """Nothing is sent, nothing runs, and the message names the part that is wrong."""
    call, error, text = CALLS[name]
    submitted = client.state()["counters"]["submitted"]
    with pytest.raises(error, match=text) as caught:
        call(client)
    assert is_helpful(caught.value)
    assert client.state()["counters"]["submitted"] <= submitted + ("inside an object" in name)


RESULTS: dict[str, tuple[Callable[[Client], Any], Any, str]] = {
    "an argument that cannot be unpickled": (lambda c: c.submit(id, BreaksOnLoading()), SerializationError, "'no number'"),
    "a large argument that cannot be unpickled": (
        lambda c: c.submit(id, [np.ones(100_000), BreaksOnLoading()]),
        SerializationError,
        "'no number'",
    ),
    "a result that cannot be unpickled": (lambda c: c.submit(BreaksOnLoading), SerializationError, "'no number'"),
    "a result that cannot be pickled": (lambda c: c.submit(returns_lock, 1), SerializationError, "lock"),
    "an input that cannot be pickled": (
        lambda c: c.gang(id, [(c.submit(returns_lock, 1),)])[0],
        (SerializationError, GangError),
        "lock",
    ),
    "a gang that has no room": (lambda c: c.gang(abs, [(1,)] * 9, timeout_s=0.5)[8], GangError, "9 ranks"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_task_that_cannot_be_is_told_at_its_result(client: Client, name: str) -> None:
    """What only a worker can find out is raised where the result is asked for."""
    make, error, text = RESULTS[name]
    future = make(client)
    with pytest.raises(error, match=text) as caught:
        future.result(BOUND_S)
    assert is_helpful(caught.value)


def test_function_of_a_module_that_workers_do_not_have_is_told(client: Client) -> None:
    """A function travels by the name of its module; where the workers cannot import that, the error names it."""
    import types

    module = types.ModuleType("here_alone")
    exec("def double(x): return 2 * x", module.__dict__)
    sys.modules["here_alone"] = module
    try:
        future = client.submit(module.double, 21)
        with pytest.raises((SerializationError, ModuleNotFoundError), match="here_alone"):
            future.result(BOUND_S)
    finally:
        del sys.modules["here_alone"]


def test_error_of_the_users_own_keeps_its_type_and_names_the_task(client: Client) -> None:
    """Wrong arguments for the user's function are the function's own error."""
    future = client.submit(pow, 1, 2, 3, 4, 5)
    with pytest.raises(TypeError, match="pow") as caught:
        future.result(BOUND_S)
    assert any(future.key in note for note in caught.value.__notes__)


def test_client_that_is_closed_says_so(cluster: LocalCluster) -> None:
    """Every verb, and the futures that it left."""
    client = Client(cluster, set_default=False)
    future = client.submit(abs, -1)
    client.wait([future], timeout_s=BOUND_S)
    client.close()
    client.close()
    for call in (lambda: client.submit(abs, 1), lambda: client.scatter([1]), client.workers, future.result):
        with pytest.raises(SchedulerLost, match="was closed"):
            call()
