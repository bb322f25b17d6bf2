"""The scheduler file: written at once, for its owner alone, and found where it is meant."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from parml_core.deploy.scheduler_file import (
    SchedulerFile,
    find_scheduler,
    read_scheduler_file,
    remove_scheduler_file,
    write_scheduler_file,
)
from parml_core.errors import ConfigError

CONTACT = SchedulerFile("tcp://127.0.0.1:8786", bytes(range(32)), "http://127.0.0.1:8787/status")


def test_scheduler_file_round_trip_keeps_everything(tmp_path: Path) -> None:
    """What was written is read, from a file that only its owner can read, and no draft stays behind."""
    path = tmp_path / "new" / "s.json"
    write_scheduler_file(path, CONTACT)
    assert read_scheduler_file(path) == CONTACT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["s.json"]


def test_scheduler_file_written_over_an_open_one_is_private(tmp_path: Path) -> None:
    """A file that others could read is replaced, not filled."""
    path = tmp_path / "s.json"
    path.touch(mode=0o666)
    path.chmod(0o666)
    write_scheduler_file(path, CONTACT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_scheduler_file_repr_hides_the_secret() -> None:
    """It may end up in a log."""
    assert CONTACT.secret.hex() not in repr(CONTACT) and repr(CONTACT.secret)[2:-1] not in repr(CONTACT)


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b'{"address": "a", "secret": "hunter2-xyz"}', b'{"address": 1}', b"\xff\x00"]
)
def test_scheduler_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    """With an error of parml's own that does not repeat what may be a secret."""
    path = tmp_path / "s.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_scheduler_file(path)
    assert "hunter2" not in str(caught.value)


def test_scheduler_file_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s.json")
    with pytest.raises(ConfigError, match="found something that is no file"):
        read_scheduler_file(tmp_path / "s.json")


def test_scheduler_file_of_another_cluster_is_not_removed(tmp_path: Path) -> None:
    """A second scheduler may have taken the place in the meantime."""
    path = tmp_path / "s.json"
    write_scheduler_file(path, CONTACT)
    remove_scheduler_file(path, SchedulerFile(CONTACT.address, b"x" * 32))
    assert path.exists()
    remove_scheduler_file(path, CONTACT)
    remove_scheduler_file(path, CONTACT)
    assert not path.exists()


def test_find_scheduler_prefers_what_is_asked_for(tmp_path: Path) -> None:
    """A path, an address with its secret, or the default file."""
    write_scheduler_file(tmp_path / "parml" / "scheduler.json", CONTACT)
    here = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert find_scheduler(environ=here) == CONTACT
    assert find_scheduler(str(tmp_path / "parml" / "scheduler.json"), {}) == CONTACT
    assert find_scheduler("127.0.0.1:8786", here) == CONTACT
    other = find_scheduler("tcp://127.0.0.1:1", {**here, "PARML_SECRET": "ab" * 32})
    assert (other.address, other.secret) == ("tcp://127.0.0.1:1", b"\xab" * 32)
    with pytest.raises(ConfigError, match="PARML_SECRET"):
        find_scheduler("127.0.0.1:1", here)
    with pytest.raises(ConfigError, match="parml scheduler"):
        find_scheduler(environ={"HOME": str(tmp_path / "nobody")})


def test_find_scheduler_with_a_bad_secret_does_not_repeat_it() -> None:
    """The secret variable may hold most of a secret."""
    with pytest.raises(ConfigError) as caught:
        find_scheduler("127.0.0.1:1", {"PARML_SECRET": "hunter2"})
    assert "hunter2" not in str(caught.value)
