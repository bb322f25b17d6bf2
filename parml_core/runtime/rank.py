"""
A rank of a gang: a process of its own beside a worker, because what spins in compiled code can only be killed.

`RankProcess` is the worker's side of it, `main` the process. Between them is a channel of frames: the spec goes one way, then
signs of life and the outcome come back. The process fetches its inputs itself, from the workers that hold them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from parml_core.comm.base import Credentials
from parml_core.config import Settings
from parml_core.errors import ClusterError, ConnectionLost, DataLost, GangError
from parml_core.graph.task import substitute
from parml_core.protocol.frames import Frame, Parser, encode
from parml_core.protocol.messages import Failure, Input, encoder
from parml_core.protocol.serialize import Serialized, dumps, exception_of, failure_of, loads
from parml_core.runtime.nanny_link import NannyLink
from parml_core.runtime.peer import DataLink
from parml_core.runtime.specs import RankSpec
from parml_core.typing import Address, Buffer, Key

HEARTBEAT_S = 1.0
SILENCE_S = 10.0
_REAP_S = 2.0


class Alive(msgspec.Struct, tag=True):
    """The process runs."""


class Result(msgspec.Struct, tag=True):
    """The function has returned; the buffers of the value are those of the frame."""

    head: bytes


class Failed(msgspec.Struct, tag=True):
    """There is no result."""

    failure: Failure


FromRank = Alive | Result | Failed
_from_rank = msgspec.msgpack.Decoder(FromRank)


class RankNotStarted(GangError):
    """The process of a rank could not be started; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class RankProcess:
    """
    A rank that runs. Start it with `start`, then `wait` for its outcome.

    Attributes
    ----------
    pid : int
    """

    def __init__(self, nanny: NannyLink, spec: RankSpec, pid: int, channel: socket.socket, silence_s: float) -> None:
        self.pid = pid
        self._nanny = nanny
        self._spec = spec
        self._channel = channel
        self._parser = Parser()
        self._silence_s = silence_s

    @classmethod
    async def start(cls, nanny: NannyLink, spec: RankSpec, *, timeout_s: float, silence_s: float = SILENCE_S) -> RankProcess:
        """
        Start the process and wait for its first sign of life.

        Raises
        ------
        RankNotStarted
        """
        rank: RankProcess | None = None
        try:
            async with asyncio.timeout(timeout_s):
                pid, channel = await nanny.spawn_rank(spec)
                rank = cls(nanny, spec, pid, channel, silence_s)
                await rank._introduce()
        except (TimeoutError, _Silence):
            why = f"it gave no sign of life within {timeout_s:g} s; is the machine overloaded?"
        except (ConnectionLost, OSError) as error:
            why = str(error) if rank is None else await rank._how_it_ended()
        except ClusterError as error:
            why = str(error)
        except BaseException:
            if rank is not None:
                rank._end()
            raise
        else:
            return rank
        if rank is not None:
            rank._end()
        text = f"{_describe(spec)} could not start: {why}"
        raise RankNotStarted(Failure("GangError", text, key=spec.key, worker=spec.worker))

    async def wait(self) -> Serialized | Failure:
        """
        The outcome: the value that the function returned, or why there is none.

        A process that is silent for `silence_s` is killed. When this coroutine is cancelled, the process is killed too.
        """
        try:
            while True:
                header, buffers = await self._frame()
                message = _from_rank.decode(header)
                if isinstance(message, Result):
                    return Serialized(message.head, list(buffers))
                if isinstance(message, Failed):
                    return message.failure
        except _Silence:
            self.kill()
            return self._lost(
                f"it was silent for {self._silence_s:g} s and was killed; it was stopped, or compiled code kept the "
                "interpreter's lock"
            )
        except (ConnectionLost, OSError):
            return self._lost(await self._how_it_ended())
        finally:
            self._end()

    def kill(self) -> None:
        """End the process now, whatever it does; `wait` then gives a Failure."""
        self._nanny.kill(self.pid)

    async def _introduce(self) -> None:
        for piece in encode(encoder.encode(self._spec)):
            await asyncio.get_running_loop().sock_sendall(self._channel, piece)
        await self._frame()

    async def _frame(self) -> Frame:
        """The next frame; _Silence when no byte comes in time, ConnectionLost at the end of the process."""
        quiet = False
        while (frame := self._parser.next()) is None:
            try:
                count = self._channel.recv_into(self._parser.space())
            except BlockingIOError:
                if quiet:
                    raise _Silence from None
                quiet = not await self._readable()  # look once more: this loop itself may have been held up
                continue
            if not count:
                raise ConnectionLost("the process of the rank closed its channel")
            quiet = False
            self._parser.filled(count)
        return frame

    async def _readable(self) -> bool:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._channel, readable.set)
        try:
            async with asyncio.timeout(self._silence_s):
                await readable.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._channel)
        return True

    async def _how_it_ended(self) -> str:
        try:
            async with asyncio.timeout(_REAP_S):
                return (await self._nanny.ended(self.pid)).text
        except TimeoutError:
            self.kill()
            return "it closed its channel without an outcome and was killed"
        except ConnectionLost as error:
            return str(error)

    def _lost(self, how: str) -> Failure:
        text = f"{_describe(self._spec)}, pid {self.pid}, was lost: {how}"
        return Failure("GangError", text, key=self._spec.key, worker=self._spec.worker)

    def _end(self) -> None:
        """It has said all that it will: nothing of it is left behind."""
        self._channel.close()
        self.kill()
        self._nanny.forget(self.pid)


class _Silence(Exception):
    """Nothing came in time."""


def _describe(spec: RankSpec) -> str:
    gang = f" of gang {spec.gang}" if spec.gang else ""
    return f"rank {spec.key!r}{gang} on worker {spec.worker!r}"


# --- in the process ----------------------------------------------------------------------------------------------------


def main(payload: bytes, link: socket.socket, fds: Sequence[int]) -> None:
    """What a nanny runs for a rank: read the spec from the channel, give the outcome back on it."""
    del payload
    link.close()  # a rank starts no processes of its own
    channel = _Channel(socket.socket(fileno=fds[0]))
    spec = channel.read_spec()
    channel.start_heartbeats()
    try:
        value = dumps(_call(spec))
    except BaseException as error:  # SystemExit and KeyboardInterrupt are the function's failures like any other
        _flush()
        channel.send(Failed(failure_of(error, key=spec.key, worker=spec.worker)))
    else:
        _flush()
        channel.send(Result(value.head), value.buffers)


def _call(spec: RankSpec) -> Any:
    fn = loads(spec.fn)
    args, kwargs = loads(spec.args)
    if spec.inputs:  # held by the arguments alone, so that the function can let go of them
        results = asyncio.run(_fetch(spec))
        args, kwargs = substitute(args, results), substitute(kwargs, results)
        del results
    return fn(*args, **kwargs)


class _Channel:
    """The process's end of the channel; blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._lock = threading.Lock()

    def read_spec(self) -> RankSpec:
        parser = Parser()
        while (frame := parser.next()) is None:
            count = self._sock.recv_into(parser.space())
            if not count:
                raise SystemExit(1)  # the worker has gone
            parser.filled(count)
        return msgspec.msgpack.decode(frame[0], type=RankSpec)

    def start_heartbeats(self) -> None:
        self.send(Alive())
        threading.Thread(target=self._beat, name="parml-rank-heartbeat", daemon=True).start()

    def send(self, message: FromRank, buffers: Sequence[Buffer] = ()) -> None:
        with self._lock:
            for piece in encode(encoder.encode(message), buffers):
                self._sock.sendall(piece)

    def _beat(self) -> None:
        beat = encode(encoder.encode(Alive()))[0]
        pause = threading.Event()
        while not pause.wait(HEARTBEAT_S):
            if not self._lock.acquire(blocking=False):
                continue  # the outcome is on its way, which is a sign of life itself
            try:
                self._sock.sendall(beat)
            except OSError:
                os._exit(1)  # the worker is gone: nobody wants the outcome
            finally:
                self._lock.release()


def _flush() -> None:
    """What the function printed: after the outcome the process may be killed at any moment."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


# --- inputs ------------------------------------------------------------------------------------------------------------


async def _fetch(spec: RankSpec) -> dict[Key, Any]:
    """The values of the inputs: from their first holders, and what is not there from the next ones."""
    found: dict[Key, Any] = {}
    why: dict[Key, str] = {}
    missing = {input_.key: input_ for input_ in spec.inputs}
    for turn in range(max(len(input_.holders) for input_ in spec.inputs)):
        by_holder: dict[Address, list[Key]] = {}
        for input_ in missing.values():
            if turn < len(input_.holders):
                by_holder.setdefault(input_.holders[turn], []).append(input_.key)
        answers = await asyncio.gather(*(_fetch_from(holder, keys, spec, why) for holder, keys in by_holder.items()))
        for values in answers:
            found.update(values)
        missing = {key: input_ for key, input_ in missing.items() if key not in found}
        if not missing:
            break
    if missing:
        raise DataLost("; ".join(_tell_missing(input_, why) for input_ in missing.values()))
    return found


async def _fetch_from(holder: Address, keys: list[Key], spec: RankSpec, why: dict[Key, str]) -> dict[Key, Any]:
    """The values that `holder` has; why it gave none for the other keys is noted. A holder that falls silent gives none."""
    try:
        link = await DataLink.open(holder, Credentials(spec.secret), f"rank {spec.key}", Settings())
        try:
            answer, values = await link.borrow(keys, keep=False)
        finally:
            await link.close()
    except (ClusterError, OSError) as error:
        why.update(dict.fromkeys(keys, str(error)))
        return {}
    found: dict[Key, Any] = {}
    for key, value in zip(keys, values, strict=True):
        if key in answer.failures:
            raise exception_of(answer.failures[key])
        if value is None:
            why[key] = "it has no such value"
        else:
            found[key] = loads(value.head, value.buffers)
    return found


def _tell_missing(input_: Input, why: dict[Key, str]) -> str:
    holders = ", ".join(input_.holders) or "no worker"
    return f"expected to find input {input_.key!r} at {holders}, found none: {why.get(input_.key, 'nobody holds it')}"
