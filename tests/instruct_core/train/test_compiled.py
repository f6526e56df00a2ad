"""A compiled step is one graph for the model and one for the loss, on one rank and under DDP with two."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from instruct_core.data.batches import LossOn
from instruct_core.recipe import Switch
from instruct_core.train.compiler import HOW
from tests.conftest import environment
from tests.forked_ranks import in_ranks
from tests.instruct_core.train.desk import CONFIG, Desk

STEPS = 4
COMPILE_THE_LOSS = """
import torch
from torch._dynamo.utils import counters
from instruct_core.train.loss import summed_loss

generator = torch.Generator().manual_seed(1)
hidden = torch.randn(1, 700, 8, generator=generator, requires_grad=True)
head = torch.randn(300, 8, generator=generator, requires_grad=True)
targets = torch.randint(0, 300, (1, 700), generator=generator)
for learnt in (None, torch.arange(0, 700, 2), torch.arange(3)):  # slices of 512, 188, 350 and 3
    results = []
    for compiled in (False, True):
        hidden.grad = head.grad = None
        loss = summed_loss(hidden, head, targets, learnt, compiled)
        loss.backward()
        results.append((loss.detach(), hidden.grad, head.grad))
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected)
assert counters["stats"]["unique_graphs"] == 1, counters
assert not counters["graph_break"], counters
"""
PLAIN = replace(CONFIG, max_steps=STEPS, eval_every=100, save_every=100)


def train(
    folder: Path, shard_set: Path, loss_on: LossOn, compiled: bool, recomputed: Switch = "off"
) -> list[Any]:
    """Train on this rank; return graphs, breaks, losses and a sum over the weights."""
    warnings.simplefilter("ignore")  # of this rank: torch's compiler uses what torch has deprecated
    from torch._dynamo.utils import counters

    HOW["backend"] = "aot_eager"  # finds graphs as the real one does, and needs no C++
    counters.clear()
    desk = Desk(folder, shard_set)
    desk.learn(loss_on)
    config = replace(PLAIN, compile=compiled, activation_checkpointing=recomputed)
    trainer = desk.trainer(config)
    trainer._evaluate = lambda: True  # type: ignore[method-assign]  # has batches of other sizes
    trainer.run()
    graphs, breaks = counters["stats"]["unique_graphs"], dict(counters["graph_break"])
    losses = [report.values["train/loss"] for report in desk.reports]
    weights = torch.cat([p.detach().flatten() for p in desk.model.parameters()]).double()
    return [graphs, breaks, losses, weights.square().sum().item()]


def test_two_ranks_compile_one_graph_of_the_model_and_one_of_the_loss(
    tmp_path: Path, shard_set: Path
) -> None:
    """Responses alone are learnt: every micro-batch has another number of targets."""
    [[*_, eager_losses, _], _] = in_ranks(
        2, lambda rank: train(tmp_path / "eager", shard_set, "response", compiled=False)
    )

    first, second = in_ranks(
        2, lambda rank: train(tmp_path / "compiled", shard_set, "response", compiled=True)
    )

    for graphs, breaks, _, _ in (first, second):
        assert (graphs, breaks) == (2, {})
    assert first[2] == pytest.approx(eager_losses, rel=1e-4)
    assert first[3] == second[3]


def test_layers_that_are_recomputed_are_compiled_into_the_same_one_graph(
    tmp_path: Path, shard_set: Path
) -> None:
    def work(rank: int) -> list[Any]:
        ways: tuple[Switch, Switch] = ("off", "on")
        return [train(tmp_path / way, shard_set, "all", True, recomputed=way) for way in ways]

    for kept, recomputed in in_ranks(2, work):
        assert kept[:2] == [2, {}]
        assert recomputed == [1, *kept[1:]]  # that of the loss is there already


@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles for CPUs with g++: none here")
def test_loss_that_is_compiled_is_the_one_that_is_written() -> None:
    """In a process of its own, which loads the compiler."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_THE_LOSS],
        env=environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
