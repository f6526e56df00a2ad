"""Warmup, cosine, floor."""

from __future__ import annotations

from dataclasses import replace

import pytest

from instruct_core.config import TrainConfig
from instruct_core.train.schedule import learning_rate_at

CONFIG = TrainConfig("r", "s", "c", "t", "random", "tiny", "f")


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 2e-7), (99, 2e-5), (100, 2e-5), (1050, 1.1e-5), (2000, 2e-6), (10**6, 2e-6)],
)
def test_learning_rate_of_the_seed_recipe(step: int, expected: float) -> None:
    assert learning_rate_at(step, CONFIG) == pytest.approx(expected)


def test_later_end_does_not_change_the_steps_before() -> None:
    longer = replace(CONFIG, max_steps=5000)

    assert learning_rate_at(1500, longer) == learning_rate_at(1500, CONFIG)
