"""
The command line: ``parml scheduler``, ``parml worker``, ``parml info``.

Exit codes: 0 after a clean end, 1 after an error (told in one line), 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from parml_core.errors import ClusterError, ParmlError

_ADDRESS_HELP = (
    "the scheduler's file, or its address with its secret in PARML_SECRET; default: the file in PARML_SCHEDULER_FILE, "
    "or where `parml scheduler` puts it"
)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Default: the arguments of this process.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    with _signals_raise():
        try:
            return int(args.run(args, parser))
        except _Stopped as stopped:
            return 128 + stopped.number
        except (ParmlError, OSError) as error:
            print(f"parml: {' '.join(str(error).split())}", file=sys.stderr)
            return 1


def scheduler() -> int:
    """The command ``parml-scheduler``."""
    return main(["scheduler", *sys.argv[1:]])


def worker() -> int:
    """The command ``parml-worker``."""
    return main(["worker", *sys.argv[1:]])


# --- usage -------------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="parml", description="A cluster for scikit-learn, XGBoost and LightGBM work.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--host", default="127.0.0.1", help="the address of this machine to listen at (default: %(default)s)")
    parent.add_argument("--allow-insecure", action="store_true", help="allow a --host that other machines can reach")

    command = commands.add_parser("scheduler", parents=[parent], help="start a scheduler")
    command.add_argument("--port", type=_port, default=8786, help="default: %(default)s; 0: any free one")
    command.add_argument(
        "--dashboard-port", type=_port, default=8787, help="default: %(default)s, on loopback; 0: any free one"
    )
    command.add_argument("--no-dashboard", action="store_true", help="serve no page")
    command.add_argument("--scheduler-file", metavar="PATH", help="where to write what workers and clients need to connect")
    command.set_defaults(run=_run_scheduler)

    command = commands.add_parser("worker", parents=[parent], help="start a worker")
    command.add_argument("scheduler", nargs="?", metavar="ADDRESS_OR_FILE", help=_ADDRESS_HELP)
    command.add_argument("--name", help="default: this machine's name and a number")
    command.add_argument("--nthreads", type=_count, help="tasks to run at a time (default: one for each core)")
    command.add_argument("--memory-limit", default="auto", metavar="SIZE", help="such as 2GiB; 0: none (default: all memory)")
    command.add_argument(
        "--resources", type=_resources, default={}, metavar="NAME=AMOUNT,…", help="what the worker has, such as GPU=1"
    )
    command.add_argument(
        "--preload", action="append", default=[], metavar="MODULE", help="import it ahead for trainings, such as parml.xgboost"
    )
    command.add_argument(
        "--spill-directory",
        default="",
        metavar="PATH",
        help="a folder for values that do not fit into memory (default: that for temporary files)",
    )
    command.set_defaults(run=_run_worker)

    command = commands.add_parser("info", help="show a cluster's workers and tasks")
    command.add_argument("scheduler", nargs="?", metavar="ADDRESS_OR_FILE", help=_ADDRESS_HELP)
    command.set_defaults(run=_run_info)
    return parser


def _version() -> str:
    import importlib.metadata

    try:
        found = importlib.metadata.version("parml")
    except importlib.metadata.PackageNotFoundError:
        found = "(not installed)"
    return f"parml {found}, Python {sys.version.split()[0]}"


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, found {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, found {text!r}")
    return int(text)


def _resources(text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        name, _, amount = part.partition("=")
        try:
            found[name.strip()] = float(amount)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected resources as NAME=AMOUNT,…, found {part!r}") from None
    return found


def _check_host(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    try:
        address = ipaddress.ip_address(socket.gethostbyname(args.host) if ":" not in args.host else args.host)
    except (OSError, ValueError) as error:
        parser.error(f"expected --host to be an address of this machine, found {args.host!r} ({error})")
    if address.is_unspecified:
        parser.error(f"expected --host to be the address by which others reach this machine, found {args.host} (any)")
    if not address.is_loopback and not args.allow_insecure:
        parser.error(
            f"--host {args.host} can be reached by other machines. Connections are authenticated but not encrypted yet, so "
            "whoever can listen on that network can read your data. Use 127.0.0.1 (and an SSH tunnel), or add "
            "--allow-insecure on a network that you trust"
        )


# --- commands ----------------------------------------------------------------------------------------------------------


def _run_scheduler(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    _check_host(args, parser)
    from parml_core.comm.base import Credentials
    from parml_core.config import resolve
    from parml_core.deploy import host
    from parml_core.deploy import scheduler_file as files
    from parml_core.runtime.specs import SchedulerSpec

    path = Path(args.scheduler_file or files.default_scheduler_file()).absolute()
    given = os.environ.get(files.SECRET_VARIABLE)
    credentials = Credentials.from_hex(given) if given else Credentials.generate()
    spec = SchedulerSpec(
        secret=credentials.secret,
        host=args.host,
        port=args.port,
        dashboard_port=None if args.no_dashboard else args.dashboard_port,
        settings=resolve().to_dict(),
        allow_insecure=args.allow_insecure,
    )
    with contextlib.closing(host.supervise()) as supervisor:
        ready = host.start_scheduler(supervisor, spec)
        contact = files.SchedulerFile(ready.address, credentials.secret, ready.dashboard)
        try:
            files.write_scheduler_file(path, contact)
            _say(
                f"Scheduler       {ready.address}",
                f"Dashboard       {ready.dashboard or 'none'}",
                f"Scheduler file  {path}  (holds the secret of the cluster)",
                "",
                f"Start workers with   parml worker {path} --name work-01",
                f"Connect with         Client({str(path)!r})",
            )
            return _until_end(supervisor, host.SCHEDULER)
        finally:
            files.remove_scheduler_file(path, contact)


def _run_worker(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    _check_host(args, parser)
    from parml_core.config import resolve
    from parml_core.deploy import host
    from parml_core.deploy.scheduler_file import find_scheduler
    from parml_core.runtime import machine
    from parml_core.runtime.specs import WorkerSpec

    contact = find_scheduler(args.scheduler)
    spec = WorkerSpec(
        scheduler=contact.address,
        secret=contact.secret,
        name=args.name or f"{socket.gethostname()}-{os.getpid()}",
        nthreads=args.nthreads or machine.cores(),
        memory_bytes=machine.memory_limit(args.memory_limit),
        host=args.host,
        resources=args.resources,
        settings=resolve().to_dict(),
        allow_insecure=args.allow_insecure,
        spill_directory=args.spill_directory,
    )
    with contextlib.closing(host.supervise()) as supervisor:
        host.start_workers(supervisor, [spec])
        supervisor.foresee(args.preload)
        limit = f"{spec.memory_bytes / 2**30:.1f} GiB" if spec.memory_bytes else "no limit of"
        _say(f"Worker {spec.name} works for {spec.scheduler}: {spec.nthreads} threads, {limit} memory")
        return _until_end(supervisor, spec.name)


def _until_end(supervisor: Any, name: str) -> int:
    """Wait until this process has ended for good: 0 where it was meant to."""
    why = supervisor.wait(name)
    if why:
        raise ClusterError(f"{name} has ended: {why}")
    _say(f"{name} has ended")
    return 0


def _run_info(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    del parser
    from parml_core.deploy.scheduler_file import find_scheduler

    contact = find_scheduler(args.scheduler)
    state = asyncio.run(_ask_state(contact))
    _say(f"Scheduler {contact.address}   dashboard {contact.dashboard or 'none or unknown'}", "", *_shown(state))
    return 0


async def _ask_state(contact: Any) -> dict[str, Any]:
    """The scheduler's snapshot, asked for as a client that submits nothing."""
    import secrets

    from parml_core.comm import connect, my_versions
    from parml_core.protocol.messages import AskState, ClientBye, Hello, StateIs, ToClient, decoder_of
    from parml_core.runtime.peer import Conversation

    hello = Hello("client", f"info-{secrets.token_hex(4)}", my_versions())
    comm = await connect(contact.address, credentials=contact.credentials, hello=hello, timeout_s=5.0)
    try:
        talk = Conversation(comm, decoder_of(ToClient))
        talk.say([AskState(1)])
        async with asyncio.timeout(10.0):
            while True:
                for message in await talk.receive():
                    if isinstance(message, StateIs):
                        talk.say([ClientBye()])
                        talk.flush()
                        return message.state
    except TimeoutError:
        raise ClusterError(f"expected the scheduler at {contact.address} to answer within 10 s, found it silent") from None
    finally:
        await comm.close()


# --- what is shown -----------------------------------------------------------------------------------------------------


def _shown(state: dict[str, Any]) -> list[str]:
    """
    A snapshot of the scheduler as tables.

    Examples
    --------
    >>> _shown({"workers": [], "tasks": {"memory": 2}, "groups": []})
    ['WORKER  THREADS  RUNNING  ASSIGNED  RESULTS  MEMORY  LIMIT  CPU  LAST SEEN', '(no workers)', '', 'TASKS   2 memory']
    """
    workers = [
        [
            w["name"],
            w["nthreads"],
            w["executing"],
            w["assigned"],
            w["held"],
            _size(w["memory_bytes"]),
            _size(w["memory_limit_bytes"]),
            f"{w['cpu_percent']:.0f} %",
            f"{w['last_seen_s']:.1f} s ago",
        ]
        for w in state["workers"]
    ]
    head = ["WORKER", "THREADS", "RUNNING", "ASSIGNED", "RESULTS", "MEMORY", "LIMIT", "CPU", "LAST SEEN"]
    lines = _table([head, *workers])
    if not workers:
        lines.append("(no workers)")
    lines += ["", "TASKS   " + (", ".join(f"{count} {name}" for name, count in state["tasks"].items() if count) or "none")]
    if state["groups"]:
        states = [name for name in state["groups"][0] if name not in ("name", "mean_s")]
        rows = [[g["name"], *(g[name] for name in states)] for g in state["groups"]]
        lines += ["", *_table([["GROUP", *(name.upper() for name in states)], *rows])]
    return lines


def _table(rows: list[list[Any]]) -> list[str]:
    cells = [["".join(c if c.isprintable() else "?" for c in str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.0f} MiB" if nbytes else "–"


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


# --- signals -----------------------------------------------------------------------------------------------------------


class _Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP raise _Stopped, once: what closes afterwards is bounded and not interrupted."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: object) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped(number)

    former = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
