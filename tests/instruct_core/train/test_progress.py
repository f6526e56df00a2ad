"""Any number of ranks shares a step's samples; some may take more of them than others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from instruct_core.checkpoints.manifest import Progress
from instruct_core.errors import ConfigError
from instruct_core.model.gpt2 import GPT2
from instruct_core.train import gradients
from instruct_core.train.gradients import Gradients
from instruct_core.train.pace import Stopwatch
from instruct_core.train.progress import busy_shares, next_samples
from tests.forked_ranks import in_ranks
from tests.instruct_core.train.desk import CONFIG, TINY, Desk

PROGRESS = Progress(global_step=2, samples_seen=100, tokens_seen=0)
# Four sequences over three ranks, one at once: rank 0 alone takes a second one.
UNEQUAL = replace(CONFIG, micro_batch_size=1, eval_every=100, save_every=100)


class Numbers:
    """Samples that are their places in the reading order."""

    @staticmethod
    def at(positions: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
        return positions


def taken(sequences: int, micro_batch_size: int, world_size: int) -> list[list[list[int]]]:
    """Return the samples of each rank in each micro-batch of one step."""
    config = replace(
        CONFIG, tokens_per_step=sequences * CONFIG.seq_len, micro_batch_size=micro_batch_size
    )
    numbers: Any = Numbers()
    shares = [
        next_samples(PROGRESS, config, numbers, rank, world_size) for rank in range(world_size)
    ]
    return [[samples.tolist() for samples in share] for share in shares]


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 6, 7, 64])
def test_any_number_of_ranks_takes_the_samples_of_a_step_once_and_in_order(
    world_size: int, micro_batch_size: int
) -> None:
    shares = taken(64, micro_batch_size, world_size)

    in_order = [
        sample
        for together in zip(*shares, strict=True)
        for samples in together
        for sample in samples
    ]
    assert in_order == list(range(100, 164))
    assert all(len(samples) <= micro_batch_size for share in shares for samples in share)
    sizes = [sum(len(samples) for samples in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert len({len(share[-1]) for share in shares if len(share) > 1}) <= 1
    assert all(share[-1] for share in shares), "ranks meet in their last micro-batch"


@pytest.mark.parametrize(("world_size", "size"), [(1, 8), (2, 8), (4, 4), (8, 8), (3, 2), (6, 4)])
def test_step_that_divides_is_shared_as_ever(world_size: int, size: int) -> None:
    sequences = 2 * 2 * world_size * size
    whole = np.arange(100, 100 + sequences).reshape(4, world_size, size)

    assert taken(sequences, size, world_size) == [
        whole[:, rank].tolist() for rank in range(world_size)
    ]


def test_rank_that_has_nothing_of_a_micro_batch_has_nothing_of_the_first() -> None:
    assert taken(4, 1, 3) == [[[100], [101]], [[], [102]], [[], [103]]]
    assert taken(5, 8, 3) == [[[100, 101]], [[102, 103]], [[104]]]


def test_more_ranks_than_a_step_has_sequences_are_refused() -> None:
    assert CONFIG.grad_accum_steps(4) == 1
    with pytest.raises(ConfigError, match=r"There must be at most 4 ranks, .* got 5\."):
        CONFIG.grad_accum_steps(5)
    with pytest.raises(ConfigError, match=r"must be a multiple of --seq-len = 64, got 300\."):
        replace(CONFIG, tokens_per_step=300).grad_accum_steps(1)


@pytest.mark.parametrize(
    ("sequences", "world_size", "micro_batch_size", "expected"),
    [
        (16, 2, 2, [20, 20]),  # three micro-batches and their backwards, and a fourth forward
        (4, 2, 2, [2, 2]),
        (5, 3, 8, [2, 2, 1]),
        (4, 3, 1, [4, 1, 1]),
    ],
)
def test_ranks_know_how_much_each_computes_before_it_waits(
    sequences: int, world_size: int, micro_batch_size: int, expected: list[int]
) -> None:
    config = replace(CONFIG, tokens_per_step=64 * sequences, micro_batch_size=micro_batch_size)

    assert busy_shares(config, world_size) == expected


def desk_in(folder: Path, shard_set: Path, dropout: float = 0.0) -> Desk:
    desk = Desk(folder, shard_set)
    desk.model = GPT2(TINY, dropout)
    desk.model.initialize(1)
    return desk


def told(desk: Desk) -> tuple[list[float], float]:
    """Return the losses, and a number that is another one where any weight is."""
    losses = [report.values["train/loss"] for report in desk.reports]
    weights = torch.cat([p.detach().flatten() for p in desk.model.parameters()]).double()
    return losses, (weights * torch.arange(1, len(weights) + 1)).sum().item()


@pytest.mark.parametrize("size", [1, 3])
def test_three_ranks_learn_from_four_sequences_what_one_does(
    tmp_path: Path, shard_set: Path, size: int
) -> None:
    alone = desk_in(tmp_path / "one", shard_set)
    alone.trainer(UNEQUAL).run()

    def train(rank: int) -> Any:
        desk = desk_in(tmp_path / "three", shard_set)
        desk.trainer(replace(UNEQUAL, micro_batch_size=size)).run()
        return told(desk)

    first, *others = in_ranks(3, train)

    expected, _ = told(alone)
    assert len(expected) == UNEQUAL.max_steps
    assert first[0] == pytest.approx(expected, abs=1e-4)
    assert [weights for _, weights in others] == [first[1]] * 2


@pytest.mark.parametrize(("busy_seconds", "is_given_up"), [(0.0, True), (4.0, True), (3.0, False)])
def test_small_first_micro_batch_does_not_make_a_long_step_short(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, busy_seconds: float, is_given_up: bool
) -> None:
    """One sequence took two seconds by the clock, so eight will take sixteen."""
    clock = iter(range(10))
    monkeypatch.setattr(gradients, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    desk.stop = lambda: True
    reader, device = desk.readers["train"], torch.device("cpu")
    batches = [reader.micro_batch(np.arange(size, dtype=np.uint64)) for size in (1, 8)]

    loss_sum = desk.trainer(CONFIG)._gradients.add_up(
        batches, 1.0, Stopwatch(device, 0.0), busy_seconds
    )

    assert (loss_sum is None) == is_given_up


def test_long_step_is_given_up_by_ranks_with_and_without_a_first_micro_batch(
    tmp_path: Path, shard_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 1 is warned in the third step, when rank 0 alone has done anything for it."""
    config, vote = replace(UNEQUAL, dropout=0.1), Gradients._gives_up
    monkeypatch.setattr(gradients, "STOP_PATIENCE_SECONDS", 0.0)

    def train(rank: int, is_warned: bool) -> Any:
        desk = desk_in(tmp_path / f"warned-{is_warned}", shard_set, config.dropout)
        votes: list[int] = []
        desk.stop = lambda: is_warned and rank == 1 and len(votes) == 3

        def counted(self: Gradients, *arguments: Any) -> bool:
            votes.append(arguments[1])
            return vote(self, *arguments)

        monkeypatch.setattr(Gradients, "_gives_up", counted)
        trainer = desk.trainer(config)
        outcome, step = trainer.run(), trainer.progress.global_step
        if outcome == "stopped":
            desk.stop = lambda: False
            desk = desk_in(tmp_path / f"warned-{is_warned}", shard_set, config.dropout)
            desk.trainer(config).run()
        return [outcome, step, told(desk)[1]]

    whole = in_ranks(3, lambda rank: train(rank, is_warned=False))
    warned = in_ranks(3, lambda rank: train(rank, is_warned=True))

    assert {tuple(ended[:2]) for ended in warned} == {("stopped", 2)}
    assert [ended[2] for ended in warned] == [ended[2] for ended in whole]
