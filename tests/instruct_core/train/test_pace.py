"""A rank that keeps the others waiting is named once, and one that is slow now and then is not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from instruct_core.events import SlowRank
from instruct_core.train import pace as module
from instruct_core.train.pace import SLOW_STEPS, Pace, Stopwatch
from instruct_core.train.vote import hold_vote
from instruct_core.train.wishes import Wishes
from tests.forked_ranks import in_ranks
from tests.instruct_core.train.desk import CONFIG, Desk


def told(steps: list[list[float]], *shares: int) -> list[tuple[int, int]]:
    """Return at which steps which ranks are named; they have as much to do, if nothing else is said."""
    pace = Pace(shares or [1] * len(steps[0]))
    return [
        (e.step, e.rank) for step, seconds in enumerate(steps, 1) for e in pace.look(step, seconds)
    ]


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_slow_rank_is_named_after_so_many_steps_and_once(world_size: int) -> None:
    seconds = [0.1] * world_size
    seconds[1] = 0.16

    assert told([seconds] * 50) == [(SLOW_STEPS, 1)]


def test_rank_that_is_slow_again_later_is_named_again() -> None:
    slow, even = [0.1, 0.2, 0.1], [0.1, 0.1, 0.1]

    assert told([slow] * 20 + [even] + [slow] * 20) == [(20, 1), (41, 1)]


@pytest.mark.parametrize(
    "seconds",
    [[0.1, 0.149], [0.1, 0.1, 0.149], [0.001, 0.004], [0.0, 0.3], [0.3], [0.1, 0.1, 0.2, 0.2]],
)
def test_rank_that_is_little_slower_or_alone_is_not_named(seconds: list[float]) -> None:
    found = told([seconds] * 50)

    assert found == ([] if len(seconds) < 4 else [(20, 2), (20, 3)])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([0.4, 0.1, 0.1], []),
        ([0.7, 0.1, 0.1], [(20, 0)]),
        ([0.4, 0.1, 0.2], [(20, 2)]),
    ],
)
def test_rank_that_has_four_times_as_much_to_do_may_take_four_times_as_long(
    seconds: list[float], expected: list[tuple[int, int]]
) -> None:
    assert told([seconds] * 50, 4, 1, 1) == expected


def test_rank_that_has_less_to_do_is_not_asked_to_be_faster() -> None:
    assert told([[0.1, 0.1, 0.1]] * 50, 2, 2, 1) == []


def test_slow_step_now_and_then_names_nobody() -> None:
    steps = [[0.1, 0.5 if step % 20 else 0.1] for step in range(200)]

    assert told(steps) == []


def test_what_a_rank_waits_for_others_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.4])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(times)))

    watch = Stopwatch(torch.device("cpu"), waited_seconds=0.1)
    watch.stop()

    assert watch.seconds == pytest.approx(0.5)


def test_vote_carries_the_time_of_every_rank_to_every_rank() -> None:
    setup: Any = SimpleNamespace(wishes=Wishes, stop=lambda: False)
    saves: Any = SimpleNamespace(votes=lambda: (0.0, 0.0))

    def vote(rank: int) -> list[float]:
        landed: Any = SimpleNamespace(loss_sum=1.0, busy_seconds=rank + 0.5)
        return hold_vote(setup, 1, landed, saves).busy_seconds

    assert in_ranks(3, vote) == [[0.5, 1.5, 2.5]] * 3


def test_rank_that_is_slow_in_a_run_is_told_by_rank_0(
    tmp_path: Path, shard_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_STEPS", 2)

    def train(rank: int) -> list[tuple[int, int]]:
        if rank == 1:  # its clock runs fast, so that all it does takes it long
            clock = SimpleNamespace(monotonic=lambda: 1000 * time.monotonic())
            monkeypatch.setattr(module, "time", clock)
        desk = Desk(tmp_path, shard_set)
        desk.trainer(replace(CONFIG, max_steps=4, eval_every=100, save_every=100)).run()
        return [(e.rank, e.step) for e in desk.events if isinstance(e, SlowRank)]

    assert in_ranks(2, train) == [[[1, 2]], []]
