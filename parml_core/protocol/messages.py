"""
What clients, scheduler and workers say to each other: the wire format, and the events that the kernels handle.

One union and one decoder for each direction. Messages hold keys, sizes and opaque bytes: a scheduler never sees a function
or a value. All messages of one tick travel as one list in one frame (`frames`). Every run of a task is numbered: an answer
that carries the number of an older attempt is ignored by whoever gets it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from parml_core.engine.base import WorkerInfo
from parml_core.graph.task import Hints
from parml_core.typing import Address, Key, WorkerId

PROTOCOL_VERSION = 1


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of all messages."""


# --- parts of messages -------------------------------------------------------------------------------------------------


class TaskSpec(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    A Task as a scheduler sees it.

    `fn` names pickled bytes that some message of this connection carried; `args` is the pickled ``(args, kwargs)`` with Refs
    in them; `order` is the position of the task in its graph, smaller first; `hints` is None where all are default.
    """

    key: Key
    fn: str
    args: bytes
    deps: tuple[Key, ...]
    order: int
    hints: Hints | None = None


class Input(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A dependency of an assigned task: how large it is and who holds it."""

    key: Key
    nbytes: int
    holders: tuple[Address, ...]


class Assignment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    A task given to a worker. `priority` sorts ascending: (−user's priority, generation, order).

    `gang` names the gang that the task is a rank of, empty for ordinary tasks; `preload` are modules that its process should
    find imported. `wanted`: a client holds a future of it, so a small result travels with the news of it. `anyway`: the
    scheduler knows that the worker is short of memory, and has no better place.
    """

    key: Key
    attempt: int
    fn: str
    args: bytes
    inputs: tuple[Input, ...]
    priority: tuple[int, int, int]
    threads: int = 1
    gang: str = ""
    preload: tuple[str, ...] = ()
    wanted: bool = False
    anyway: bool = False


class Failure(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    Why a task has no result.

    Parameters
    ----------
    kind : str
        ``"raised"`` by the user's function, or the name of a class in `parml_core.errors`.
    text : str
        The message; for ``"raised"`` the type's name and the message.
    traceback : str
        Formatted traceback from where it was raised.
    pickled : bytes
        The exception itself where it could be pickled; opaque to a scheduler.
    key : str
        The task that failed first; dependants carry their cause's key.
    worker : str
        Name of the worker where it happened.
    """

    kind: str
    text: str
    traceback: str = ""
    pickled: bytes = b""
    key: Key = ""
    worker: str = ""


class Done(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    One finished run, in a worker's report.

    `small` is the pickled result of a task that was `wanted`, if it is small; else empty.
    """

    key: Key
    attempt: int
    nbytes: int
    duration_s: float
    small: bytes = b""


class Holding(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value and who holds it."""

    key: Key
    nbytes: int
    holders: tuple[Address, ...]


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """
    What two peers tell each other once both have proved that they know the secret.

    Parameters
    ----------
    role : {"client", "worker", "scheduler", "data"}
        A connection of role ``"data"`` leads to a worker and carries values only.
    id : str
        PeerId of the sender.
    versions : dict of str to str
        ``"protocol"`` (has to be equal), ``"parml"`` and ``"python"`` (major.minor; have to be equal), ``"cloudpickle"``.
    worker : WorkerInfo or None
        For a worker that registers.
    address : str
        Where the sender's data plane listens; empty for clients.
    holds : list of (key, nbytes)
        Values that a worker brings along.
    """

    role: str
    id: str
    versions: dict[str, str]
    worker: WorkerInfo | None = None
    address: Address = ""
    holds: list[tuple[Key, int]] = []


# --- client → scheduler ------------------------------------------------------------------------------------------------
#
# A client numbers the messages by which it begins to hold futures (`want`). What the scheduler then tells of a key carries that
# number back, so that news of a future that was released is never taken for news of one that was made later.


class Submit(Message):
    """
    Tasks to run. `functions` holds the bytes of every `fn` that they name; `wants`: keys whose futures the client holds.

    Tasks that nothing wanted needs are not kept: a graph travels in one message.
    """

    functions: dict[str, bytes]
    tasks: list[TaskSpec]
    wants: list[Key]
    want: int


class Want(Message):
    """The client now holds futures of these keys, which it expects to exist."""

    keys: list[Key]
    want: int


class Release(Message):
    """The client holds no future of these keys any more."""

    keys: list[Key]


class Cancel(Message):
    """End these tasks, and their dependants. What another client needs goes on; this client's futures are cancelled."""

    keys: list[Key]


class Scattered(Message):
    """The client has put these values on workers and holds futures of them. `holders` are worker addresses."""

    values: list[Holding]
    want: int


class SubmitGang(Message):
    """
    Ranks to run together. ``tasks[r]`` is rank r; ``where[r]`` are the workers it takes whole, empty: the scheduler chooses.

    `timeout_s` bounds the wait for all to start; 0: the default of the scheduler.
    """

    gang: str
    functions: dict[str, bytes]
    tasks: list[TaskSpec]
    where: list[list[WorkerId]]
    timeout_s: float
    want: int
    preload: tuple[str, ...] = ()


class Absent(Message):
    """The client asked this holder for these keys, and it answered that it has none of them."""

    keys: list[Key]
    holder: Address


class AskWorkers(Message):
    """Who are the workers? → `WorkersAre`."""

    request: int


class AskHolders(Message):
    """Who holds these keys? → `HoldersAre`."""

    request: int
    keys: list[Key]


class AskState(Message):
    """A snapshot for people: → `StateIs`."""

    request: int


class ClientBye(Message):
    """The client leaves on purpose: its wants end now and not after the grace period."""


FromClient: TypeAlias = (
    Submit | Want | Release | Cancel | Scattered | SubmitGang | Absent | AskWorkers | AskHolders | AskState | ClientBye
)

# --- scheduler → client ------------------------------------------------------------------------------------------------


class KeysReady(Message):
    """These keys have results, held by these workers. ``small[i]``: the pickled result, where it has just come and is small."""

    keys: list[Key]
    holders: list[Address]  # the holder of keys[i]; one is enough to fetch from, AskHolders tells all
    wants: list[int]
    small: list[bytes]


class KeysFailed(Message):
    """These keys have ended without a result."""

    keys: list[Key]
    failures: list[Failure]
    wants: list[int]


class KeysPending(Message):
    """These keys had results, and are being computed again because their holders were lost."""

    keys: list[Key]
    wants: list[int]


class NeedValues(Message):
    """The holders of these scattered keys are gone: put them on a worker again, and say `Scattered`, or `Release` them."""

    keys: list[Key]


class WorkersAre(Message):
    request: int
    workers: list[WorkerInfo]
    addresses: list[Address]


class HoldersAre(Message):
    request: int
    holders: list[list[Address]]
    ids: list[list[WorkerId]]


class StateIs(Message):
    request: int
    state: dict[str, Any]


ToClient: TypeAlias = KeysReady | KeysFailed | KeysPending | NeedValues | WorkersAre | HoldersAre | StateIs

# --- scheduler → worker ------------------------------------------------------------------------------------------------


class Compute(Message):
    """Run these. `functions` holds the bytes of each `fn` that the worker has not been sent yet."""

    functions: dict[str, bytes]
    tasks: list[Assignment]


class Free(Message):
    """Drop these values."""

    keys: list[Key]


class ForgetFunctions(Message):
    """No task that the scheduler knows uses these functions any more."""

    fns: list[str]


class Revoke(Message):
    """
    End these attempts. What has not started never will; what runs is left to end unheard, but a rank of a gang is killed.

    Each is ``(key, attempt)``. The worker answers with nothing: the scheduler has already moved on.
    """

    attempts: list[tuple[Key, int]]


class Recall(Message):
    """Give these attempts back where they have not started: the worker answers `Returned` with those it gives back."""

    attempts: list[tuple[Key, int]]


class Leave(Message):
    """The worker shall end, and, where the scheduler took it for lost, `rejoin` as a new incarnation."""

    reason: str
    rejoin: bool = False


ToWorker: TypeAlias = Compute | Free | ForgetFunctions | Revoke | Recall | Leave

# --- worker → scheduler ------------------------------------------------------------------------------------------------


class Finished(Message):
    """Runs that have a result, which this worker now holds."""

    runs: list[Done]


class Failed(Message):
    """A run that raised, or whose result could not be kept."""

    key: Key
    attempt: int
    failure: Failure


class InputsMissing(Message):
    """
    A run did not start because some inputs could not be fetched; the worker has let go of it.

    Each of `missing` is ``(key, address of the peer, absent)``: absent means that the peer answered that it has no such key,
    otherwise it could not be reached.
    """

    key: Key
    attempt: int
    missing: list[tuple[Key, Address, bool]]


class Returned(Message):
    """Attempts given back unstarted, after `Recall`."""

    attempts: list[tuple[Key, int]]


class Copied(Message):
    """
    The worker now also holds these values, fetched from peers as inputs.

    `put`: a client has put them, and its `Scattered` should follow; if none does, the worker is told to drop them.
    """

    values: list[tuple[Key, int]]  # key, nbytes
    put: bool = False


class Started(Message):
    """Ranks of a gang that have a process and run now."""

    attempts: list[tuple[Key, int]]


class Blocked(Message):
    """
    Running tasks of this worker that use `count` threads only wait now: so many slots more are free (negative: fewer again).

    A task gives back what it takes: one that uses no slot (``threads=0``) has none to give.
    """

    count: int


class Pressure(Message):
    """
    How short of memory the worker is. 0: not at all.

    1, paused: it gives back what it has not started, but for what it was sent `anyway`, which it runs one at a time. 2, full:
    what would have to make way finds no room on its disk, so that a task that it is sent all the same fails.
    """

    level: int


class Heartbeat(Message):
    """Still alive: what runs, the process's resident memory in bytes and its use of processors since the last one in %."""

    executing: list[tuple[Key, int]]
    memory_bytes: int
    cpu_percent: float


class WorkerBye(Message):
    """The worker leaves on purpose, for this reason."""

    reason: str


FromWorker: TypeAlias = (
    Finished | Failed | InputsMissing | Returned | Copied | Started | Blocked | Pressure | Heartbeat | WorkerBye
)

# --- anybody ↔ worker: the data plane ----------------------------------------------------------------------------------


class Loan(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    Where the buffers of a value lie for processes of the same host: in an open file of its owner (`store.shared`).

    `lengths` are those of the buffers. `inode` tells the file from another one that has its descriptor by now, and `use` the
    value from another one that is in the file by now. A value on disk (`store.disk`) has a `checksum` instead, begins at
    `offset`, and its head comes before the buffers.
    """

    pid: int
    fd: int
    inode: int
    lengths: list[int]
    use: int
    offset: int = 0
    checksum: int | None = None


class GetValues(Message):
    """
    Send these values. → `Values`. `place`: a holder there may lend large ones instead; empty: it shall send all of them.

    `patient`: of one value that was `Values.later` before: the answer comes when others have got it, or names one of them.
    `codecs`: by which buffers may be compressed, if they come earlier so over a link of `bytes_per_s`.
    """

    request: int
    keys: list[Key]
    place: str = ""
    patient: bool = False
    codecs: tuple[str, ...] = ()
    bytes_per_s: float = 0.0


class Took(Message):
    """Values that were `Values.shared` have arrived: others can be told to ask the sender for those that are `kept`."""

    kept: list[Key]
    others: list[Key]


class PutValues(Message):
    """
    Keep these values (heads here, buffers out of band): ``buffers[i]`` of the frame's belong to keys[i]. → `PutDone`.

    The buffers of `loans` are not sent, but lent to a worker at `place`.
    """

    request: int
    keys: list[Key]
    heads: list[bytes]
    buffers: list[int]
    place: str = ""
    loans: dict[Key, Loan] = {}


ToData: TypeAlias = GetValues | Took | PutValues


class Values(Message):
    """
    Values as pickle-5 heads, buffers out of band. ``heads[i]`` is None where the worker does not have keys[i].

    `failures` tells for a key that is there but cannot be pickled why: its head is None too. Buffers of `loans` are not sent.
    Of keys that are `shared` a worker says `Took`. Those that are `later` are being sent to another one: ask again, patiently.
    `elsewhere` has just got the value of a patient request, and shall be asked for it; nothing is sent. Buffers of `packed`, by
    their positions among all, have these lengths and are not in this frame: they follow in order, each as some `Piece`s.
    """

    request: int
    heads: list[bytes | None]
    buffers: list[int]
    failures: dict[Key, Failure] = {}
    loans: dict[Key, Loan] = {}
    shared: list[Key] = []
    later: list[Key] = []
    elsewhere: Address = ""
    packed: dict[int, int] = {}


class Piece(Message):
    """
    The next `nbytes` of the buffers that were to follow, as the only buffer of this frame.

    `codec`: by which they are compressed, empty: they are not. `checksum`: CRC-32 of the bytes that come out.
    """

    request: int
    codec: str
    nbytes: int
    checksum: int


class PutDone(Message):
    """The values are kept, but for those of `refused`, whose loans could not be taken: they have to be sent."""

    request: int
    refused: list[Key]


FromData: TypeAlias = Values | Piece | PutDone

encoder = msgspec.msgpack.Encoder()
"""Encodes a list of messages."""


def decoder_of(direction: Any) -> msgspec.msgpack.Decoder[Any]:
    """The decoder of a list of messages of one direction, e.g. ``decoder_of(FromClient)``."""
    return msgspec.msgpack.Decoder(list[direction])
