"""What a scheduler remembers of tasks, groups, functions, workers, clients and gangs."""

from __future__ import annotations

import msgspec

from parml_core.engine.base import WorkerInfo
from parml_core.kernel.transitions import STATES, State
from parml_core.protocol.messages import Failure, TaskSpec
from parml_core.typing import Address, ClientId, Group, Key, WorkerId


class SchedulerPolicy(msgspec.Struct, frozen=True):
    """
    The numbers by which a scheduler decides.

    Parameters
    ----------
    allowed_failures : int
        A task is erred when it has taken down this many workers.
    worker_timeout_s : float
        A worker that was silent for longer is lost.
    gang_start_timeout_s : float
        How long a gang waits for its workers to be free, where its client gives no bound.
    prefetch_s : float
        So much estimated work travels to each slot ahead of need.
    prefetch_max : int
        No more than so many tasks travel to a slot ahead of need.
    unknown_duration_s : float
        What a task is thought to take while none of its group has run.
    bandwidth_bytes_per_s, fetch_latency_s : float
        What moving a value to another worker is thought to cost.
    pinned_timeout_s : float
        How long a task waits for a worker of its `where` or with its resources to join.
    stray_s : float
        How long a value that a client put on a worker is kept without word from that client.
    function_idle_s : float
        How long a function that no task uses is kept, on the workers too: the next call of it then sends nothing but arguments.
    function_idle_bytes : int
        A larger one is forgotten at once.
    asleep_s : float
        When the scheduler itself did not run for longer, the silence of workers meanwhile tells nothing.
    """

    allowed_failures: int = 3
    worker_timeout_s: float = 15.0
    gang_start_timeout_s: float = 60.0
    prefetch_s: float = 0.02
    prefetch_max: int = 2000
    unknown_duration_s: float = 0.5
    bandwidth_bytes_per_s: float = 1e9
    fetch_latency_s: float = 0.001
    pinned_timeout_s: float = 60.0
    stray_s: float = 30.0
    function_idle_s: float = 5.0
    function_idle_bytes: int = 64 * 1024
    asleep_s: float = 3.0


class GroupRecord:
    """Tasks that share a name: how many are in which state, and how long one takes."""

    __slots__ = ("counts", "duration_s", "n_measured", "name")

    def __init__(self, name: Group) -> None:
        self.name = name
        self.counts: dict[State, int] = dict.fromkeys(STATES, 0)
        self.n_measured = 0
        self.duration_s = 0.0  # moving average

    def measured(self, duration_s: float) -> None:
        self.n_measured += 1
        weight = max(1.0 / self.n_measured, 0.05)
        if duration_s < self.duration_s / 4:  # the first run may have paid for imports
            weight = max(weight, 0.5)
        self.duration_s += (duration_s - self.duration_s) * weight


class FunctionRecord:
    """Pickled function: its bytes, how many tasks use it, and which workers were sent it."""

    __slots__ = ("data", "id", "known_by", "n_tasks")

    def __init__(self, id: str, data: bytes) -> None:
        self.id = id
        self.data = data
        self.n_tasks = 0
        self.known_by: dict[WorkerRecord, None] = {}


class TaskRecord:
    """
    One key.

    `needed_by` counts the dependants that are waiting, queued or running: while it is positive the result is kept.
    `waiting_on` holds the dependencies that are not in memory, while the task waits.
    """

    __slots__ = (
        "attempt",
        "dependants",
        "deps",
        "failure",
        "failures",
        "function",
        "gang",
        "group",
        "holders",
        "key",
        "nbytes",
        "needed_by",
        "not_before_s",
        "owners",
        "preferred",
        "priority",
        "retries_left",
        "sequence",
        "spec",
        "state",
        "suspect",
        "unreachable",
        "waiting_on",
        "wanted_by",
        "worker",
    )

    def __init__(self, key: Key, group: GroupRecord) -> None:
        self.key = key
        self.group = group
        self.state: State = "released"
        self.spec: TaskSpec | None = None  # None: a scattered value
        self.function: FunctionRecord | None = None
        self.deps: tuple[TaskRecord, ...] = ()
        self.dependants: dict[TaskRecord, None] = {}
        self.waiting_on: dict[TaskRecord, None] = {}
        self.needed_by = 0
        self.wanted_by: dict[ClientRecord, None] = {}
        self.priority: tuple[int, int, int] = (0, 0, 0)
        self.attempt = 0  # number of the newest run
        self.retries_left = 0
        self.worker: WorkerRecord | None = None  # while running
        self.preferred: WorkerRecord | None = None  # while queued: in whose queue
        self.sequence = 0  # of its entry in a queue; entries with another one are void
        self.unreachable = 0  # how many runs ended because a holder of an input could not be reached
        self.not_before_s = 0.0  # so long it then pauses
        self.holders: dict[WorkerRecord, None] = {}
        self.nbytes = 0
        self.failure: Failure | None = None
        self.failures: tuple[str, ...] = ()  # names of the workers that died while running this task and nothing else
        self.suspect = False  # ran among others on a worker that died: runs alone until that is cleared up
        self.owners: tuple[ClientRecord, ...] = ()  # of a scattered value: the clients that can send it again
        self.gang: GangRecord | None = None

    def __repr__(self) -> str:
        return f"<TaskRecord {self.key} {self.state}>"


class WorkerRecord:
    """
    One incarnation of a worker.

    `running` are the tasks that were sent to it and have not ended, and `busy` the threads that they use; `ready` those in the
    scheduler that would best run there, as a heap. `claimed` threads belong to ranks of gangs.
    """

    __slots__ = (
        "address",
        "blocked",
        "busy",
        "claimed",
        "cpu_percent",
        "executing",
        "functions",
        "holding",
        "id",
        "index",
        "info",
        "last_seen_s",
        "load_s",
        "memory_bytes",
        "pressure",
        "progress_s",
        "ranks",
        "ready",
        "recalled",
        "reserved_by",
        "resources",
        "running",
    )

    def __init__(self, info: WorkerInfo, address: Address, index: int, now: float) -> None:
        self.id: WorkerId = info.id
        self.info = info
        self.address = address
        self.index = index  # order of joining
        self.last_seen_s = now
        self.running: dict[TaskRecord, float] = {}  # with the estimate that load_s contains
        self.load_s = 0.0
        self.progress_s = now  # when a run last ended, or the first of these was sent
        self.busy = 0
        self.ready: list[tuple[tuple[int, int, int], int, TaskRecord]] = []
        self.holding: dict[TaskRecord, None] = {}
        self.functions: dict[FunctionRecord, None] = {}
        self.blocked = 0
        self.claimed = 0
        self.ranks: dict[TaskRecord, None] = {}
        self.reserved_by: GangRecord | None = None
        self.recalled: dict[TaskRecord, None] = {}
        self.resources = dict(info.resources)  # what is free
        self.executing: list[tuple[Key, int]] = []
        self.memory_bytes = 0
        self.pressure = 0  # how short of memory it is, see m.Pressure
        self.cpu_percent = 0.0

    @property
    def slots(self) -> int:
        """Threads that ordinary tasks may use."""
        return self.info.nthreads + self.blocked - self.claimed

    def __repr__(self) -> str:
        return f"<WorkerRecord {self.info.name} {len(self.running)} running>"


class ClientRecord:
    """A client, and the tasks it holds futures of, with the number under which it asked for each."""

    __slots__ = ("id", "wants")

    def __init__(self, id: ClientId) -> None:
        self.id = id
        self.wants: dict[TaskRecord, int] = {}


class GangRecord:
    """
    Ranks that run together.

    `claims[r]` are (worker, threads) pairs that rank r takes, known once the gang has its workers.
    """

    __slots__ = ("claims", "deadline_s", "failure", "id", "not_before_s", "preload", "state", "tasks", "timeout_s", "where")

    def __init__(self, id: str, tasks: list[TaskRecord], where: list[list[WorkerId]], timeout_s: float) -> None:
        self.id = id
        self.tasks = tasks
        self.where = where
        self.timeout_s = timeout_s  # for all to start
        self.deadline_s = 0.0
        self.not_before_s = 0.0
        self.preload: tuple[str, ...] = ()
        self.failure: Failure | None = None  # why it ended, where not all ranks have results
        self.state = "waiting"  # waiting → running → ended
        self.claims: list[list[tuple[WorkerRecord, int]]] = []
