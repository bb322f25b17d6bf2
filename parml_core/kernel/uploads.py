"""
Who is sent a large value by its holder, who waits, and who is told to ask another: a broadcast becomes a tree.

A holder sends a value to one asker at a time. When that one has it, it is a holder too, so the two share those that wait: each
second one is told to ask there. In as many turns as the number of askers can be halved, all have it, and no link has carried
the value more often than that. Askers in one place (`store.shared`) get it once between them, and map it.

Nobody waits for long for one that is slow, or has stopped: an upload that takes several times as long as others did is still
going on, and is no reason any more to let others wait.
"""

from __future__ import annotations

from typing import NamedTuple

from parml_core.typing import Address, Key

LARGE_BYTES = 4 * 1024 * 1024
"""Smaller values are sent to all that ask."""

FIRST_BYTES_PER_S = 100e6
"""What an upload is thought to take while none has ended."""

PATIENCE, PATIENCE_S = 4, 1.0
"""An upload takes too long when it takes so many times the time of the fastest one so far, and so much more."""


class Asker(NamedTuple):
    """A worker that asks for a value, by which of its connections; empty is a `place` that nobody shares."""

    address: Address
    place: str
    connection: int = 0


class Turn(NamedTuple):
    """One that waited gets an answer now: the value, or whom to ask for it."""

    key: Key
    asker: Asker
    elsewhere: Address = ""


class _Upload:
    __slots__ = ("nbytes", "sending", "waiting")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.sending: dict[Asker, float] = {}  # since when; the longest first
        self.waiting: dict[Asker, None] = {}


class Uploads:
    """
    The turns of one holder.

    Parameters
    ----------
    large_bytes : int
        Smaller values are sent to all that ask.

    Examples
    --------
    >>> uploads = Uploads(large_bytes=8)
    >>> a, b, c = (Asker(f"tcp://{name}", name) for name in "abc")
    >>> [uploads.ask("x", 8, asker, 0.0) for asker in (a, b, c)]
    [True, False, False]
    >>> [(turn.asker.place, turn.elsewhere) for turn in uploads.ended("x", a, 1.0, kept=True)]
    [('c', 'tcp://a'), ('b', '')]
    """

    def __init__(self, large_bytes: int = LARGE_BYTES) -> None:
        self.large_bytes = large_bytes
        self._uploads: dict[Key, _Upload] = {}
        self._best_bytes_per_s = 0.0

    @property
    def waited_for(self) -> bool:
        """Whether anybody waits, so that `overdue` has to be asked from time to time."""
        return any(upload.waiting for upload in self._uploads.values())

    def ask(self, key: Key, nbytes: int, asker: Asker, now: float, *, patient: bool = True) -> bool:
        """Whether to send a large value now; if not, the asker gets its turn later, if it is `patient`, or asks again."""
        upload = self._uploads.get(key)
        if upload is None:
            upload = self._uploads[key] = _Upload(nbytes)
        if upload.sending and asker not in upload.sending:
            if patient:
                upload.waiting[asker] = None
            return False
        upload.sending[asker] = now
        return True

    def ended(self, key: Key, asker: Asker, now: float, *, kept: bool) -> list[Turn]:
        """The asker has got the value and holds it (`kept`), or does not: the turns that come of it."""
        upload = self._uploads.get(key)
        if upload is None:
            return []
        since = upload.sending.pop(asker, None)
        turns = self._shared_with(key, upload, asker) if kept else []
        if kept and since is not None:
            self._best_bytes_per_s = max(self._best_bytes_per_s, upload.nbytes / max(now - since, 1e-3))
        return turns + self._next(key, upload, now)

    def gone(self, asker: Asker, now: float) -> list[Turn]:
        """The connection to an asker has ended."""
        turns = []
        for key in [key for key, upload in self._uploads.items() if asker in upload.sending or asker in upload.waiting]:
            self._uploads[key].waiting.pop(asker, None)
            turns += self.ended(key, asker, now, kept=False)
        return turns

    def overdue(self, now: float) -> list[Turn]:
        """The turns of those that have waited long enough for an upload that does not end."""
        turns = []
        for key, upload in list(self._uploads.items()):
            if upload.waiting:
                slowest, since = next(iter(upload.sending.items()))
                usual_s = upload.nbytes / (self._best_bytes_per_s or FIRST_BYTES_PER_S)
                if now - since > PATIENCE * usual_s + PATIENCE_S:
                    del upload.sending[slowest]
                    turns += self._next(key, upload, now)
        return turns

    def _shared_with(self, key: Key, upload: _Upload, holder: Asker) -> list[Turn]:
        """All that wait in the place of a new holder, and those of each second other place, are to ask there."""
        places: dict[str, list[Asker]] = {}
        for asker in upload.waiting:
            places.setdefault(asker.place or asker.address, []).append(asker)
        near = places.pop(holder.place, [])
        to_ask_there = near + [asker for place in list(places.values())[1::2] for asker in place]
        for asker in to_ask_there:
            del upload.waiting[asker]
        return [Turn(key, asker, holder.address) for asker in to_ask_there]

    def _next(self, key: Key, upload: _Upload, now: float) -> list[Turn]:
        if upload.sending:
            return []
        if not upload.waiting:
            del self._uploads[key]
            return []
        asker = next(iter(upload.waiting))
        del upload.waiting[asker]
        upload.sending[asker] = now
        return [Turn(key, asker)]
