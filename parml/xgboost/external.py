"""
Training data on the disk of a rank's host: rows are read back batch by batch, and xgboost's quantised pages page by page.

Nothing of it outlives the process, however that ends. The rows are in a file without a name. xgboost opens its pages by name,
so once they are written each name becomes a link to an open file that has none; and a folder that was left by a process which
was killed before that is removed by the next rank on the host.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from parml.boosting.shares import Batch, Share, rows_of

_PREFIX = "parml-xgboost-"
_LOCK = "lock"
_AT_A_TIME = 4


class Stored:
    """A value in a file: where its pickle and the buffers of its arrays lie."""

    __slots__ = ("_file", "_spans")

    def __init__(self, file: Any, value: Any) -> None:
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(value, 5, buffer_callback=buffers.append)
        self._file = file
        self._spans = [_append(file, piece) for piece in (head, *(buffer.raw() for buffer in buffers))]

    def load(self) -> Any:
        """The value, read anew."""
        head, *buffers = [_read(self._file, *span) for span in self._spans]
        return pickle.loads(head, buffers=buffers)


def _append(file: Any, piece: Any) -> tuple[int, int]:
    start = file.seek(0, os.SEEK_END)
    view = memoryview(piece).cast("B")
    while view.nbytes:
        view = view[file.write(view) :]
    return start, file.tell() - start


def _read(file: Any, start: int, size: int) -> bytearray:
    piece = bytearray(size)
    view = memoryview(piece)
    file.seek(start)
    while view.nbytes:
        count = file.readinto(view)
        if not count:
            raise OSError(f"expected {size} bytes at {start} in a file of this process, found its end")
        view = view[count:]
    return piece


class Disk:
    """
    A place for the batches and the pages of one matrix.

    Parameters
    ----------
    folder : Path
        Empty but for its lock, and this process's own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: list[int] = []

    def store(self, shares: Sequence[Share], threads: int = 1) -> list[Batch]:
        """Compute the partitions of a rank, few at a time; X of each is `Stored`, the other fields stay in memory."""
        file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - closed with the last batch that is in it
        batches = []
        for batch in _computed(shares, min(threads, _AT_A_TIME)):
            # Copied: a label may be a view of the whole table.
            kept = {name: pickle.loads(pickle.dumps(value, 5)) for name, value in batch.items() if name != "X"}
            batches.append({"X": Stored(file, batch.pop("X")), **kept})
            del batch
        return batches

    @contextmanager
    def pages(self) -> Iterator[str]:
        """A prefix for xgboost's files. The matrix is built in this context; then no data on the disk has a name any more."""
        folder = self._folder / "pages"
        folder.mkdir()
        yield str(folder / "page")
        for path in sorted(folder.iterdir()):
            fd = os.open(path, os.O_RDONLY)
            self._open.append(fd)
            path.unlink()
            path.symlink_to(f"/proc/self/fd/{fd}")

    def close(self) -> None:
        """The matrix must not be used any more."""
        while self._open:
            os.close(self._open.pop())


def _computed(shares: Sequence[Share], threads: int) -> Iterator[Batch]:
    """The rows of each partition in order, up to `threads` computed at the same time."""
    if threads == 1:
        yield from map(_compute, shares)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Batch]] = deque()
        for share in shares:
            ahead.append(pool.submit(_compute, share))
            if len(ahead) == threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _compute(share: Share) -> Batch:
    batch, start, stop = share
    return rows_of(batch["recipe"].cook(batch["inputs"]), start, stop)


@contextmanager
def disk(parent: str | None) -> Iterator[Disk]:
    """
    A place on disk while in this context.

    Parameters
    ----------
    parent : str, optional
        An existing folder. Default: that for temporary files.

    Examples
    --------
    >>> with disk(None) as place, place.pages() as prefix:
    ...     prefix.endswith("/pages/page")
    True
    """
    root = Path(parent or tempfile.gettempdir())
    if not root.is_dir():
        raise FileNotFoundError(f"expected a folder for external memory on every host, found none at {root}; make it")
    _remove_abandoned(root)
    with ExitStack() as stack:
        place = Disk(_own_folder(root, stack))
        stack.callback(place.close)
        try:
            yield place
        except OSError as error:
            error.add_note(f"external memory is in {root}; pass external_memory='/another/folder' for one with more room")
            raise


def _own_folder(root: Path, stack: ExitStack) -> Path:
    """A folder with a lock in it that the system lets go of when this process ends."""
    draft = Path(
        tempfile.mkdtemp(prefix="parml-draft-", dir=root)
    )  # of mode 0700; without a lock it would be taken for abandoned
    lock = os.open(draft / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    stack.callback(os.close, lock)
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = draft.rename(root / draft.name.replace("parml-draft-", _PREFIX))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _remove_abandoned(root: Path) -> None:
    """Folders of processes that were killed."""
    for lock in root.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):  # it belongs to somebody else, or is being removed
            fd = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(fd)
