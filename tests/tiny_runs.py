"""Runs of the tiny model that a test starts, hits from outside and looks at."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import (
    TINY_RUN,
    events_of,
    hashes_of,
    last_read_step,
    launch,
    rank_pids,
    wait_for,
)
from tests.warm_launchers import Launcher

STEPS = 36
Hit = Callable[[Path], None]


def arguments(shards: Path, gpus: int, *more: str) -> list[str]:
    return [
        f"--shards={shards}", f"--gpus={gpus}", f"--max-steps={STEPS}", "--run=r",
        "--record-samples", *TINY_RUN, "--tokens-per-step=256", "--micro-batch-size=1",
        "--eval-every=18", *more,
    ]  # fmt: skip


def train(cwd: Path, shards: Path, gpus: int, *more: str) -> subprocess.CompletedProcess[str]:
    cwd.mkdir(exist_ok=True)
    result = launch("finetune", *arguments(shards, gpus, *more), cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result


def run_of(cwd: Path) -> Path:
    return cwd / "runs_instruct" / "r"


def count(cwd: Path, event: str) -> int:
    return sum(entry["event"] == event for entry in events_of(run_of(cwd)))


def signal_a_rank(cwd: Path, signum: signal.Signals, draw: random.Random) -> None:
    os.kill(draw.choice(rank_pids(run_of(cwd))), signum)


def checkpoint(cwd: Path, step: int) -> Path:
    return cwd / "checkpoints_instruct" / "r" / f"step-{step:08d}"


def copy_of(cwd: Path, folder: Path) -> Path:
    """Copy a person's folder with a run in it that somebody else's test made."""
    return Path(shutil.copytree(cwd, folder / "copy"))


def final_hashes(cwd: Path, step: int = STEPS) -> dict[str, str]:
    return hashes_of(cwd / "checkpoints_instruct" / "r", step)


def losses(cwd: Path) -> dict[int, float]:
    """Return the training loss of every step as TensorBoard shows it; each step once."""
    events = EventAccumulator(str(run_of(cwd)), size_guidance={"scalars": 0})
    events.Reload()
    points = events.Scalars("train/loss")
    assert len({point.step for point in points}) == len(points), "a curve overlaps itself"
    return {point.step: point.value for point in points}


def hit_at(launcher: Launcher, cwd: Path, step: int, hit: Hit) -> None:
    """Wait until a run is at a step of its present attempt, hit it, and wait for what follows."""
    wait_for(lambda: last_read_step(run_of(cwd)) >= step or launcher.poll() is not None, "the step")
    assert launcher.poll() is None, "the run ended before it was hit"
    before = count(cwd, "resumed")  # now, when the present attempt has certainly said so
    with held(run_of(cwd)):
        hit(cwd)
    wait_for(
        lambda: count(cwd, "resumed") > before or launcher.poll() is not None, "an end or a restart"
    )


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold the ranks of a run on this machine; see `stopped`."""
    with stopped(wait_for(lambda: rank_pids(run), "the ranks")):
        yield


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """Stop ranks: their run cannot end before what a test does meanwhile, to them as well."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        raise AssertionError("the run ended before it was held") from None
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def line_of(launcher: Launcher, text: str) -> str:
    """Return the line with a text as soon as a launcher prints it; "" where it ends without."""
    assert launcher.stdout is not None
    return next((line for line in launcher.stdout if text in line), "")
