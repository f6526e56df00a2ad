"""Curves over the attempts of a run, and what a GPU could do at most, by its name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from instruct_core.storage.store import Store
from instruct_core.train import metrics
from instruct_core.train.metrics import Metrics, peak_of
from launch.runs.curves import read_curves

LOSS = "train/loss"


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX A4000", None),
        ("Tesla T4", None),
    ],
)
def test_peak_is_that_of_the_very_gpu(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def log_attempt(runs: Store, attempt: int, resumed_at: int, *steps: int) -> None:
    curves = Metrics(runs, attempt, resumed_at)
    for step in steps:
        curves.log(step, {LOSS: 10.0 * attempt + step})
    curves.close()


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_attempts_on_nodes_whose_clocks_are_behind_are_drawn_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    runs = Store(tmp_path if place == "disk" else "memory://clocks/r")
    for attempt, (now, resumed_at) in enumerate([(2e9, 0), (1e9, 2), (1.5e9, 3)]):
        monkeypatch.setattr(metrics, "time", SimpleNamespace(time=lambda now=now: now))
        log_attempt(runs, attempt, resumed_at, resumed_at + 1, resumed_at + 2)

    drawn = read_curves(runs, [LOSS]).curves[LOSS]

    assert drawn == [(1, 1.0), (2, 2.0), (3, 13.0), (4, 24.0), (5, 25.0)]


def test_attempt_goes_on_where_nobody_says_what_earlier_ones_have_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Store(tmp_path)

    def refuse() -> list[str]:
        raise OSError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "names", refuse)
        log_attempt(runs, 1, 4, 5)

    assert read_curves(runs, [LOSS]).curves[LOSS] == [(5, 15.0)]
    assert "could not be looked for: no answer" in caplog.text
