"""
Which checkpoints remain: the last few, every Nth for good, and the best by validation loss.

    kept_steps({100: 3.1, 200: 2.7, 300: 2.9}, Keep(last=1))      # {200, 300}
    Retention(store).prune(Keep(last=3), newest=300)

Nothing is removed before one of those that stay has been read back and found right, byte for byte:
the last good checkpoint never goes. Where the disk is nearly full, only the newest one stays, beside
those that are kept for good, and the best.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from instruct_core.checkpoints.known_steps import Found, KnownSteps
from instruct_core.checkpoints.removal import clear_step, remove_save, set_aside
from instruct_core.checkpoints.steps import (
    SPARE_BYTES,
    SPARE_FILES,
    damage_seen_twice,
    saved_in,
    step_name,
)
from instruct_core.storage.store import Store


class Keep(NamedTuple):
    """What a run keeps."""

    last: int = 3  # newest checkpoints, at least 1
    every: int = 0  # steps divisible by it stay for good; 0 for none


def kept_steps(val_losses: Mapping[int, float | None], keep: Keep) -> set[int]:
    """
    Return the steps that stay.

    Args:
        val_losses: Every committed step and its validation loss, None where it was not evaluated.
        keep: The rule.
    """
    steps = sorted(val_losses)
    kept = set(steps[-keep.last :])
    if keep.every:
        kept |= {step for step in steps if step % keep.every == 0}
    # Of equal ones the newest.
    evaluated = [
        (loss, -step)
        for step, loss in val_losses.items()
        if loss is not None and math.isfinite(loss)
    ]
    if evaluated:
        kept.add(-min(evaluated)[1])
    return kept


class SpoiledError(OSError):
    """A checkpoint that was written without an error, and reads back different."""


class Removed(NamedTuple):
    """What went, and what should have gone and could not."""

    steps: list[int]
    problems: list[str]


class Retention:
    """
    Removes checkpoints of one run.

    Args:
        store: The run's folder.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.known_good: set[int] = set()  # steps whose every byte this process has compared
        self.attempt = 0  # ours, for the name of what is set aside
        self._known = KnownSteps(store)
        self.raises_refusals = False  # where we may not remove; else what stays is noted
        self.no_space = False  # the disk has refused a write: free space shows no quota

    def prune(self, keep: Keep, newest: int, removed: Removed | None = None) -> Removed:
        """
        Remove checkpoints that need not stay, and what saves that were killed have left.

        Args:
            keep: The rule.
            newest: Nothing from this step on is touched: it may be in the making.
            removed: Problems are added to it.

        Raises:
            SpoiledError: What was to stay is not what was written; it is set aside, and nothing went.
            OSError: We may not remove here; only where `raises_refusals`.
        """
        removed = removed or Removed([], [])
        found = self._known.look()
        gone = self._remove_all_but(keep, newest, found.committed)
        removed.problems.extend(gone.problems)
        self._remove_left(found, lambda step: step < newest, gone)
        return gone

    def make_room(self, keep: Keep, newest: int, num_bytes: int, num_files: int) -> Removed:
        """
        Remove what may go where the disk is too full for one more checkpoint.

        Raises:
            OSError: It is too full all the same.
        """
        if not self.no_space and not self._shortage(num_bytes, num_files):
            return Removed([], [])
        found = self._known.look()
        removed = self._remove_all_but(keep._replace(last=1), newest, found.committed)
        self._remove_left(found, lambda step: step != newest, removed)  # also of later steps
        self.no_space = False
        if shortage := self._shortage(num_bytes, num_files):
            raise OSError(
                errno.ENOSPC, f"no space for {self._store.where(step_name(newest))}: {shortage}"
            )
        return removed

    def _shortage(self, num_bytes: int, num_files: int) -> str:
        """Return what the disk has too little of; "" where it suffices."""
        free = self._store.free()
        if free is None:
            return ""
        if free.num_bytes < num_bytes + SPARE_BYTES:
            needed = (num_bytes + SPARE_BYTES) / 1e6
            return f"it needs {needed:,.0f} MB, and {free.num_bytes / 1e6:,.0f} MB are free"
        if free.num_files is not None and free.num_files < num_files + SPARE_FILES:
            return f"it needs {num_files + SPARE_FILES} files, and {free.num_files} are free"
        return ""

    def forget(self, step: int) -> None:
        """Take nothing for granted of a step that is about to be written anew."""
        self.known_good.discard(step)
        self._known.forget(step)

    def doomed(self, keep: Keep, newest: int) -> list[int]:
        """Return the committed steps that `prune` would remove."""
        return self._sorted_out(keep, newest, self._known.look().committed)[0]

    def _sorted_out(self, keep: Keep, newest: int, steps: list[int]) -> tuple[list[int], set[int]]:
        """Return the steps that go and those that stay."""
        kept = kept_steps(dict.fromkeys(steps), keep)
        if all(step in kept or step >= newest for step in steps):
            return [], kept  # whatever their losses are
        val_losses = self._known.val_losses(steps)
        kept = kept_steps(val_losses, keep)
        return [s for s in sorted(val_losses) if s not in kept and s < newest], kept

    def _remove_all_but(self, keep: Keep, newest: int, steps: list[int]) -> Removed:
        doomed, kept = self._sorted_out(keep, newest, steps)
        # One that stays for long must not vouch for a disk that has begun to lie since.
        if doomed and not self.known_good & set(sorted(kept)[-keep.last :]):
            self._verify(max(kept))
        removed = Removed([], [])
        for step in doomed:
            self._remove(step, removed)
        return removed

    def _remove_left(self, found: Found, may_go: Callable[[int], bool], removed: Removed) -> None:
        """Remove what saves and removals that were killed have left."""
        for step in filter(may_go, found.unfinished):
            with self._may_stay(step_name(step), removed):
                if saved_in(self._store, step) is None:  # at another look too
                    self._remove(step, removed)
        for name in found.left:
            with self._may_stay(name, removed):
                if not self._store.exists(f"{name}/manifest.json"):  # else it may have to go back
                    self._store.remove(name)
        for name in found.outdated:
            with self._may_stay(name, removed):
                remove_save(self._store, name)

    def _remove(self, step: int, removed: Removed) -> None:
        self.forget(step)
        with self._may_stay(step_name(step), removed):
            clear_step(self._store, step, self.attempt)
            removed.steps.append(step)

    @contextmanager
    def _may_stay(self, name: str, removed: Removed) -> Iterator[None]:
        """Note what cannot be removed: somebody reads it on NFS, or it is not ours; next time then."""
        try:
            yield
        except OSError as error:
            refused = isinstance(error, PermissionError) or error.errno == errno.EROFS
            if refused and self.raises_refusals:
                raise
            reason = error.strerror or str(error)
            removed.problems.append(f"{self._store.where(name)} stays: {reason}")

    def _verify(self, step: int) -> None:
        folder = self._known.folder(step)
        if damage := damage_seen_twice(self._store, step, folder=folder):
            self.forget(step)
            aside = set_aside(self._store, step, self.attempt, folder)
            raise SpoiledError(
                f"{damage} It is set aside as {self._store.where(aside)}, and older ones stay"
            )
        self.known_good.add(step)
