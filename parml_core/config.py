"""
Every setting that parml has: one frozen tree, resolved once where a process begins and handed down from there.

A value comes from the first of: an argument, an environment variable (``PARML_WORKER__HEARTBEAT_S=2``), ``parml.toml`` in
the working directory, ``~/.config/parml/parml.toml``, the default below. Children of a process get ``settings.to_dict()``.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from parml_core.errors import ConfigError

__all__ = ["CommSettings", "DashboardSettings", "SchedulerSettings", "Settings", "WorkerSettings", "resolve"]

KIB, MIB, GIB = 2**10, 2**20, 2**30


def _bounded(default: Any, *, low: float, high: float = float("inf")) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _one_of(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """
    Parameters
    ----------
    allowed_failures : int
        How many workers may die while a task runs on them before the task is erred.
    worker_timeout_s : float
        A worker that was silent for so long is taken for lost. It is silent while it is stopped, cut off, or while compiled
        code in a task keeps the interpreter to itself.
    gang_start_timeout_s : float
        How long the ranks of a gang may take to start, all of them.
    prefetch_s : float
        How much measured work a worker is given ahead.
    """

    allowed_failures: int = _bounded(3, low=1)
    worker_timeout_s: float = _bounded(10.0, low=0.1)
    gang_start_timeout_s: float = _bounded(60.0, low=0.1)
    prefetch_s: float = _bounded(0.02, low=0.0, high=60.0)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """
    Parameters
    ----------
    heartbeat_s : float
        Time between two heartbeats; has to be well below the scheduler's `worker_timeout_s`.
    rank_timeout_s : float
        A rank whose process was silent for so long is killed, and its gang ends.
    reconnect_s : float
        A worker that was cut off from its scheduler tries for so long to reach it, and then joins anew.
    memory_target, memory_spill, memory_pause : float
        Shares of a worker's memory limit. Above `memory_spill` it moves the values that were used the longest ago to disk, down
        to `memory_target`. Above `memory_pause` it starts no task while another runs, until it is below `memory_spill` again.
        Above 0.95 its nanny restarts it.
    """

    heartbeat_s: float = _bounded(1.0, low=0.01)
    rank_timeout_s: float = _bounded(10.0, low=0.1)
    reconnect_s: float = _bounded(300.0, low=0)
    memory_target: float = _bounded(0.6, low=0.0, high=1.0)
    memory_spill: float = _bounded(0.7, low=0.0, high=1.0)
    memory_pause: float = _bounded(0.8, low=0.0, high=1.0)


@dataclass(frozen=True, slots=True)
class CommSettings:
    """
    Parameters
    ----------
    connect_timeout_s : float
        How long to try to reach a peer.
    handshake_timeout_s : float
        A peer has so long to prove that it knows the secret.
    max_header_bytes : int
        Size of all messages of one frame; a larger one ends the connection.
    max_message_bytes : int
        Size of a frame with its buffers; 0: bounded by memory only.
    compression : {"auto", "lz4", "zstd", "none"}
        Of large values between hosts. ``"auto"``: where a link was measured to be so slow that they come earlier compressed.
    """

    connect_timeout_s: float = _bounded(10.0, low=0.1)
    handshake_timeout_s: float = _bounded(5.0, low=0.1)
    max_header_bytes: int = _bounded(64 * MIB, low=4 * KIB, high=4 * GIB)
    max_message_bytes: int = _bounded(0, low=0)
    compression: str = _one_of("auto", "lz4", "zstd", "none")


@dataclass(frozen=True, slots=True)
class DashboardSettings:
    """
    Parameters
    ----------
    port : int
        Where the scheduler serves its page on loopback; 0: any free port.
    """

    port: int = _bounded(8787, low=0, high=65535)


@dataclass(frozen=True, slots=True)
class Settings:
    """
    The tree.

    Examples
    --------
    >>> Settings().scheduler.allowed_failures
    3
    >>> Settings.from_dict(Settings().to_dict()) == Settings()
    True
    """

    scheduler: SchedulerSettings = SchedulerSettings()
    worker: WorkerSettings = WorkerSettings()
    comm: CommSettings = CommSettings()
    dashboard: DashboardSettings = DashboardSettings()

    def __post_init__(self) -> None:
        if self.worker.heartbeat_s * 2 > self.scheduler.worker_timeout_s:
            raise ConfigError(
                "expected worker.heartbeat_s to be at most half of scheduler.worker_timeout_s, found "
                f"{self.worker.heartbeat_s:g} and {self.scheduler.worker_timeout_s:g}; with these, live workers would be lost"
            )
        levels = self.worker.memory_target, self.worker.memory_spill, self.worker.memory_pause
        if list(levels) != sorted(levels):
            raise ConfigError(
                "expected worker.memory_target, memory_spill and memory_pause in this order, found "
                f"{', '.join(f'{level:g}' for level in levels)}; raise those that come later"
            )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """As nested plain values, to hand to another process."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """The tree from nested plain values; what is absent has its default."""
        return _build([_Source("the given settings", values)])


def resolve(
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    files: Iterable[Path] | None = None,
) -> Settings:
    """
    The settings of this process.

    Parameters
    ----------
    overrides : mapping, optional
        ``{"worker": {"heartbeat_s": 2}}`` or ``{"worker.heartbeat_s": 2}``; None as a value means «not given».
    environ : mapping of str to str, optional
        Default: the environment of this process.
    files : iterable of Path, optional
        Default: ``parml.toml`` here and ``~/.config/parml/parml.toml``; the first that has a setting decides it.

    Raises
    ------
    ConfigError
        A setting that does not exist, or a value that it cannot have; the message says where it came from.

    Examples
    --------
    >>> resolve({"worker.heartbeat_s": 2}, environ={"PARML_SCHEDULER__WORKER_TIMEOUT_S": "30"}, files=[]).worker.heartbeat_s
    2.0
    """
    sources = [_Source("the argument", overrides or {}), _environment(os.environ if environ is None else environ)]
    for path in _default_files() if files is None else files:
        if path.is_file():
            sources.append(_Source(str(path), _read(path)))
    return _build(sources)


# --- where values come from --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    values: Mapping[str, Any]
    text: bool = False  # values are strings that stand for numbers

    def settings(self) -> Iterator[tuple[str, str, Any]]:
        """(section, name, value) of everything that is given here."""
        for key, value in self.values.items():
            section, dot, name = key.partition(".")
            if section not in _SECTIONS:
                raise ConfigError(_unknown(f"section {section!r}", section, _SECTIONS, self.name))
            inner = {name: value} if dot else value
            if not isinstance(inner, Mapping):
                raise ConfigError(f"expected a table of settings as {section!r} in {self.name}, found {inner!r}")
            for name, item in inner.items():
                if name not in _TYPES[section]:
                    raise ConfigError(_unknown(f"setting {section}.{name}", name, _TYPES[section], self.name))
                if item is not None:
                    yield section, name, item


def _environment(environ: Mapping[str, str]) -> _Source:
    """PARML_SECTION__NAME; variables without the double underscore (PARML_SECRET) are no settings."""
    values = {}
    for variable, text in environ.items():
        section, mark, name = variable.removeprefix("PARML_").lower().partition("__")
        if variable.startswith("PARML_") and mark:
            values[f"{section}.{name}"] = text
    return _Source("the environment", values, text=True)


def _default_files() -> list[Path]:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return [Path("parml.toml"), Path(home, "parml", "parml.toml")]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected {path} to be TOML, found {error}; mend or remove it") from error


# --- from values to the tree -------------------------------------------------------------------------------------------

_SECTIONS: dict[str, type] = {f.name: type(f.default) for f in dataclasses.fields(Settings)}
_TYPES: dict[str, dict[str, type]] = {section: get_type_hints(cls) for section, cls in _SECTIONS.items()}


def _build(sources: list[_Source]) -> Settings:
    chosen: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for source in reversed(sources):  # the first source is applied last
        for section, name, value in source.settings():
            chosen[section][name] = _checked(section, name, value, source)
    return Settings(**{section: cls(**chosen[section]) for section, cls in _SECTIONS.items()})


def _checked(section: str, name: str, value: Any, source: _Source) -> Any:
    kind = _TYPES[section][name]
    bounds = _SECTIONS[section].__dataclass_fields__[name].metadata  # type: ignore[attr-defined]
    if kind is str:
        if value not in bounds["choices"]:
            choices = ", ".join(map(repr, bounds["choices"]))
            raise ConfigError(f"expected {section}.{name} to be one of {choices}, found {value!r} in {source.name}")
        return value
    wanted = f"{'a whole number' if kind is int else 'a number'} from {bounds['low']:g} to {bounds['high']:g}"
    fault = ConfigError(f"expected {section}.{name} to be {wanted}, found {value!r} in {source.name}")
    if source.text:
        try:
            value = kind(value)
        except ValueError:
            raise fault from None
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        raise fault
    if not bounds["low"] <= value <= bounds["high"]:
        raise fault
    return kind(value)


def _unknown(what: str, name: str, known: Iterable[str], source: str) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    return f"found an unknown {what} in {source}; {advice}"
