"""Settings: precedence, and what is said of wrong ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parml_core.config import SchedulerSettings, Settings, resolve
from parml_core.errors import ConfigError


def toml(directory: Path, text: str) -> Path:
    path = directory / f"{len(list(directory.iterdir()))}.toml"
    path.write_text(text)
    return path


def test_resolve_nothing_given_is_the_default() -> None:
    """Without argument, variable or file every setting has the default that its class states."""
    assert resolve(environ={}, files=[]) == Settings()
    assert Settings().scheduler == SchedulerSettings(3, 10.0, 60.0, 0.02)


def test_resolve_precedence_is_argument_environment_file_default(tmp_path: Path) -> None:
    """Each source wins over those behind it, setting by setting, and the nearer file over the farther."""
    near = toml(tmp_path, "[scheduler]\nallowed_failures = 12\nworker_timeout_s = 12\ngang_start_timeout_s = 12\n")
    far = toml(
        tmp_path, "[scheduler]\nallowed_failures = 13\ngang_start_timeout_s = 13\nprefetch_s = 13\n[dashboard]\nport = 13"
    )
    environ = {"PARML_SCHEDULER__ALLOWED_FAILURES": "11", "PARML_SCHEDULER__WORKER_TIMEOUT_S": "11", "PARML_SECRET": "x"}
    got = resolve({"scheduler": {"allowed_failures": 10}}, environ=environ, files=[near, tmp_path / "absent", far])
    assert got.scheduler == SchedulerSettings(10, 11.0, 12.0, 13.0)
    assert got.dashboard.port == 13


def test_resolve_default_files_are_the_working_directory_and_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """parml.toml in the working directory is read before the one in the user's configuration directory."""
    (tmp_path / "config" / "parml").mkdir(parents=True)
    (tmp_path / "config" / "parml" / "parml.toml").write_text("[worker]\nheartbeat_s = 3\nrank_timeout_s = 3")
    (tmp_path / "parml.toml").write_text("[worker]\nheartbeat_s = 2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    worker = resolve(environ={}).worker
    assert (worker.heartbeat_s, worker.rank_timeout_s) == (2.0, 3.0)


def test_resolve_override_of_none_counts_as_not_given() -> None:
    """A command line passes what was not given as None, and the default stands."""
    assert resolve({"dashboard.port": None, "worker": {"heartbeat_s": None}}, environ={}, files=[]) == Settings()


@pytest.mark.parametrize(
    ("overrides", "environ", "expected"),
    [
        ({"worker.heartbeet_s": 1}, {}, "worker.heartbeet_s in the argument; did you mean 'heartbeat_s'"),
        ({"skheduler": {}}, {}, "section 'skheduler' in the argument; did you mean 'scheduler'"),
        ({"worker.zzz": 1}, {}, "there are heartbeat_s, memory_pause, memory_spill, memory_target, rank_timeout_s"),
        ({"worker.memory_spill": 0.9}, {}, "memory_spill and memory_pause in this order, found 0.6, 0.9, 0.8"),
        ({"worker": 3}, {}, "expected a table of settings as 'worker'"),
        ({"dashboard.port": 70000}, {}, "a whole number from 0 to 65535, found 70000 in the argument"),
        ({"dashboard.port": 80.5}, {}, "dashboard.port to be a whole number"),
        ({"dashboard.port": True}, {}, "found True"),
        ({"dashboard.port": "80"}, {}, "found '80'"),
        ({"worker.heartbeat_s": float("nan")}, {}, "found nan"),
        ({}, {"PARML_WORKER__HEARTBEAT_S": "soon"}, "a number from 0.01 to inf, found 'soon' in the environment"),
        ({}, {"PARML_WORKER__HEARTBEAT": "1"}, "did you mean 'heartbeat_s'"),
        ({"comm.compression": True}, {}, "one of 'auto', 'lz4', 'zstd', 'none', found True in the argument"),
        ({}, {"PARML_COMM__COMPRESSION": "gzip"}, "found 'gzip' in the environment"),
        ({"worker.heartbeat_s": 10}, {}, "at most half of scheduler.worker_timeout_s, found 10 and 10"),
    ],
)
def test_resolve_wrong_setting_raises_and_says_what_to_do(overrides: dict, environ: dict, expected: str) -> None:
    """An error names the setting, its source, the value and the nearest name."""
    with pytest.raises(ConfigError) as caught:
        resolve(overrides, environ=environ, files=[])
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", ["worker = [", "[worker]\nheartbeat_s = 'x'", "[wurker]"])
def test_resolve_bad_file_raises_and_names_the_file(text: str, tmp_path: Path) -> None:
    """What is wrong in a file is reported with the path of the file."""
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError, match=path.name):
        resolve(environ={}, files=[path])


def test_settings_are_frozen_at_every_depth() -> None:
    """Nobody changes a setting after it was resolved."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().worker.heartbeat_s = 2.0  # type: ignore[misc]


@given(
    heartbeat_s=st.floats(0.01, 5.0),
    port=st.integers(0, 65535),
    max_message_bytes=st.integers(0, 2**62),
)
def test_to_dict_survives_messagepack_and_comes_back_equal(heartbeat_s: float, port: int, max_message_bytes: int) -> None:
    """A child process that is handed the dictionary has the settings of its parent."""
    given_ = {"worker.heartbeat_s": heartbeat_s, "dashboard.port": port, "comm.max_message_bytes": max_message_bytes}
    settings = resolve(given_, environ={}, files=[])
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(settings.to_dict()))
    assert Settings.from_dict(plain) == settings
    assert settings.worker.heartbeat_s == heartbeat_s
