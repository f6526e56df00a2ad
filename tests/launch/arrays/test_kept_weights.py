"""Weights that tasks cannot keep so where they run are refused, before anything is read."""

from __future__ import annotations

import pytest

from instruct_core.errors import ConfigError
from instruct_core.recipe import Kept
from launch.arrays import answers
from launch.cluster.gpus import Gpus
from launch.cluster.request import Request

CORES = Request("debug", 60, 0, 2, None, "partition debug", ())
OLD, NEW = CORES._replace(gpus_per_node=2, has_bf16=False), CORES._replace(gpus_per_node=2)


@pytest.mark.parametrize(
    ("request_", "here", "message"),
    [
        (None, Gpus(0), "is for GPUs, and this machine has none"),
        (None, Gpus(2, None, has_bf16=False), "since Ampere, and this machine has an older one"),
        (CORES, Gpus(0), "is for GPUs, and partition debug has none"),
        (OLD, Gpus(0), "since Ampere, and partition debug has an older one"),
    ],
)
def test_place_that_does_not_compute_in_bf16_is_named(
    request_: Request | None, here: Gpus, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"--weights bf16 .*{message}"):
        answers._check_kept("bf16", request_, here)


@pytest.mark.parametrize(
    ("kept", "request_", "here"),
    [
        ("fp16", None, Gpus(0)), ("fp16", CORES, Gpus(0)), ("fp16", OLD, Gpus(0)), ("bf16", NEW, Gpus(0)),
        ("bf16", None, Gpus(1)), ("fp32", OLD, Gpus(0)),
    ],
)  # fmt: skip
def test_others_are_not(kept: Kept, request_: Request | None, here: Gpus) -> None:
    answers._check_kept(kept, request_, here)
