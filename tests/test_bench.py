"""Benchmarks that take the project apart still run with what there is today."""

from __future__ import annotations

import pytest

from bench import train_step
from bench.timeline import draw, moments
from instruct_core.config import TrainConfig
from instruct_core.events import Saved
from jobs.events import Requeued, Resumed, Started, Warned
from jobs.ledger import Entry


def test_bench_of_a_training_step_runs_with_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "WARMUP_STEPS", 1)
    config = TrainConfig(
        "bench", "", "", "", "random", "tiny", "", max_steps=3, seq_len=16, micro_batch_size=2,
        tokens_per_step=32, eval_every=10**6, save_every=10**6,
    )  # fmt: skip

    assert train_step.run_ours(config) > 0


def test_timeline_is_drawn_from_a_ledger() -> None:
    entries = [
        Entry(0, 100.0, Saved(step=7, seconds=0.5)),
        Entry(0, 100.5, Warned(7, "SIGUSR2", 1.0), {"step": 3.0}),
        Entry(0, 101.0, Requeued(7)),
        Entry(1, 109.0, Started(1, "38", 1, "cpu", [1], ["node1"])),
        Entry(1, 110.0, Resumed(7), {"load": 1.0}),
    ]

    points = moments(entries)

    assert [round(seconds, 2) for seconds, _, _ in points] == [0.0, 0.0, 0.5, 1.5, 9.5, 10.5]
    assert "resumed at step 7" in points[-1][1]
    assert draw(points).startswith("<svg")
