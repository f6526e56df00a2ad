"""
When a run saves, beside what, and what happens when that fails.

    saves = Saves(config, checkpoints, take, report)
    wants, settled = saves.votes()            # two numbers of every step's vote
    saves.look()                              # if all are: tells what a save came to
    if due: saves.begin(step)
    saves.hold_update()                       # before the weights change
    saves.finish(step, stop)                  # at the end, or at a warning: saved when it returns

A save is a copy of the state into host memory, and the writing of that copy. Both are done beside
training (`--async-save`): forward and backward only read the weights, so the copy has until their
next update, which waits for it if it must. One save is written at a time. A small state is written
at once all the same: to wait costs less than a step, and a kill then never loses more than a save
interval. A save that fails is told and tried again with the state of a later step, after 5 seconds,
10, 20, up to five minutes, or half a minute where nothing is left to train; the run ends only when it
has gone without a good checkpoint for `--max-unsaved-minutes`. All ranks do the same at the same step:
what depends on a clock is rank 0's to decide, in the vote.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep

from instruct_core import ranks
from instruct_core.checkpoints.background import Background
from instruct_core.checkpoints.retention import Keep, Removed
from instruct_core.checkpoints.snapshot import Snapshot
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import TrainConfig
from instruct_core.errors import LateSaveError, UnsavedError
from instruct_core.events import Event, MadeRoom, NotRemoved, Saved, SaveFailed

FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 300.0
MAX_RETRY_SECONDS_AT_THE_END = 30.0  # all ranks wait for it
WRITTEN_AT_ONCE_BYTES = 64 << 20
TRIES_AT_A_STOP = 4  # with 1, 2 and 4 seconds between: the scheduler does not wait long
TRIES_BEFORE_GIVING_UP = 3
POLL_SECONDS = 0.2


class Saves:
    """
    One rank's view of the saves of a run.

    Args:
        config: Cadence and patience.
        checkpoints: Where to.
        take: Return the snapshot of the present step; given whether the state must be copied.
        report: Told what a save came to, on rank 0.
    """

    def __init__(
        self,
        config: TrainConfig,
        checkpoints: Checkpoints,
        take: Callable[[bool], Snapshot],
        report: Callable[[Event], None],
    ) -> None:
        self._config, self._checkpoints = config, checkpoints
        self._take, self._report = take, report
        self._keep = Keep(config.keep_checkpoints, config.keep_every)
        self._background: Background[Removed] = Background()
        self._snapshot: Snapshot | None = None  # that may still have to be copied
        self._step = -1  # of the newest save that was begun
        self._began_at = self._last_at = monotonic()
        self._good_at = self._last_at  # when the state of the newest good checkpoint was taken
        self._retry_at = float("inf")
        self._failures = 0  # in a row
        self._is_ending = False
        self._error: OSError | None = None
        self.saved_step = -1
        self._stall_seconds = 0.0

    def votes(self) -> tuple[float, float]:
        """Return whether a save is due by the clock, on rank 0, and whether ours is written."""
        due = False
        if ranks.rank() == 0 and not self._background.busy:
            now, minutes = monotonic(), self._config.save_every_minutes
            due = now >= self._retry_at or bool(minutes and now - self._last_at >= 60 * minutes)
        return float(due), float(self._background.done)

    def look(self) -> None:
        """Report a save that all ranks have written, or that has failed."""
        self._settle()

    def begin(self, step: int) -> None:
        """Save a step, after the save before it; returns when training may go on."""
        started_at = monotonic()
        if self._background.busy:
            self._settle()
        if step != self.saved_step:
            self._start(step)
        self._stall_seconds += monotonic() - started_at

    def take_stall_seconds(self) -> float:
        """Return how long training waited for saves since it was last asked."""
        seconds, self._stall_seconds = self._stall_seconds, 0.0
        return seconds

    def hold_update(self) -> None:
        """Wait until the weights may change: until a snapshot that is being copied is a copy."""
        if self._snapshot is not None:
            started_at = monotonic()
            self._snapshot.copied.wait()
            self._snapshot = None
            self._stall_seconds += monotonic() - started_at

    def _start(self, step: int) -> None:
        self._step, self._began_at = step, monotonic()
        snapshot = self._snapshot = self._take(self._config.async_save)
        self._last_at = monotonic()
        self._retry_at = float("inf")
        self._background.start(lambda: self._checkpoints.write(snapshot, self._keep))
        if not self._config.async_save or snapshot.total_bytes < WRITTEN_AT_ONCE_BYTES:
            self._settle()

    def finish(self, step: int, stop: Callable[[], bool]) -> None:
        """
        Save a step for good: waits for one that is being written, saves again if that is older.

        Args:
            step: The present one.
            stop: Return True once this rank was warned: then there is little time.

        Raises:
            LateSaveError: It cannot be saved in the time there is.
        """
        tries, self._is_ending = 0, True
        while True:
            self.begin(step)
            if self._background.busy:
                self._settle()
            if self.saved_step == step:
                return
            stopping = ranks.any_rank(stop())
            tries += stopping
            if tries >= TRIES_AT_A_STOP:
                raise LateSaveError(f"Step {step} could not be saved before the end: {self._error}")
            if stopping:
                sleep(2.0 ** (tries - 1))
            else:
                self._wait(self._pause(), stop)

    def _wait(self, seconds: float, stop: Callable[[], bool]) -> None:
        """Wait, but no longer than until a rank is warned."""
        until = monotonic() + seconds
        while ranks.any_rank(monotonic() < until) and not ranks.any_rank(stop()):
            sleep(POLL_SECONDS)

    def _settle(self) -> None:
        """Wait for the save in flight, and tell what it came to; the same on all ranks."""
        try:
            removed = self._background.result()
        except OSError as error:
            self._note_failure(error)
            return
        self.saved_step, self._good_at, self._failures = self._step, self._began_at, 0
        if ranks.rank() == 0:
            if removed.steps:
                self._report(MadeRoom(removed.steps))
            for problem in removed.problems:
                self._report(NotRemoved(problem))
            seconds = self._background.ended_at - self._began_at
            self._report(Saved(step=self._step, seconds=round(seconds, 3)))

    def _note_failure(self, error: OSError) -> None:
        self._failures, self._error = self._failures + 1, error
        pause = self._pause()
        self._retry_at = monotonic() + pause
        unsaved_minutes = (monotonic() - self._good_at) / 60
        if ranks.rank() == 0:
            self._report(SaveFailed(self._step, str(error), pause, self._is_ending or None))
        gives_up = (
            self._failures >= TRIES_BEFORE_GIVING_UP
            and unsaved_minutes > self._config.max_unsaved_minutes
        )
        if ranks.value_of_rank_0(gives_up):  # clocks differ by a little
            raise UnsavedError(
                f"Run {self._config.run} has not saved for {unsaved_minutes:.1f} minutes "
                f"(--max-unsaved-minutes {self._config.max_unsaved_minutes:g}): {error}. Fix that, and "
                "the same command goes on from the last checkpoint."
            )

    def _pause(self) -> float:
        longest = MAX_RETRY_SECONDS_AT_THE_END if self._is_ending else MAX_RETRY_SECONDS
        return float(min(FIRST_RETRY_SECONDS * 2 ** (self._failures - 1), longest))
