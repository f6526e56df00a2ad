"""Weights that are kept for processors are refused where GPUs would answer, before anything is read."""

from __future__ import annotations

import pytest

from instruct_core.errors import ConfigError
from instruct_core.recipe import Kept
from launch.arrays import answers
from launch.cluster.request import Request

NOTHING = Request("debug", 60, 0, 2, None, "partition debug", ())


@pytest.mark.parametrize(
    ("request_", "gpus", "message"),
    [
        (None, 1, "this machine has a GPU. Leave it out, or hide the GPU: CUDA_VISIBLE_DEVICES= "),
        (
            NOTHING._replace(gpus_per_node=2), 0,
            "tasks on partition debug get a GPU each. Leave it out, or give a --partition without",
        ),
    ],
)  # fmt: skip
def test_gpus_that_would_answer_are_named(
    request_: Request | None, gpus: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"--weights fp16 is for processors, and {message}"):
        answers._refuse_on_gpus("fp16", request_, gpus)


@pytest.mark.parametrize(
    ("kept", "request_", "gpus"),
    [("fp16", None, 0), ("fp16", NOTHING, 0), ("fp32", NOTHING._replace(gpus_per_node=1), 0)],
)
def test_processors_that_answer_are_not(kept: Kept, request_: Request | None, gpus: int) -> None:
    answers._refuse_on_gpus(kept, request_, gpus)
