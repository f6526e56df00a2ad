"""A GPU without memory for a model that answers: one line that says what to type."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from instruct_core.answers import writer
from instruct_core.errors import ConfigError
from instruct_core.recipe import Kept
from jobs.generate import GenerateJob
from jobs.gpu_memory import gpu_holds

FULL = "CUDA out of memory. Tried to allocate 192.00 MiB. GPU 0 has a total capacity of 23.57 GiB"
NO_CONTEXT = "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.parametrize(
    ("error", "kept", "message"),
    [
        (
            torch.OutOfMemoryError(FULL), "fp32",
            "The GPU has too little memory for the model: CUDA out of memory. Try --weights bf16, which "
            "takes half (fp16 on GPUs before Ampere), or a GPU with more memory, or the processor: "
            "CUDA_VISIBLE_DEVICES= before the command.",
        ),
        (
            RuntimeError(NO_CONTEXT), "bf16",
            "The GPU has too little memory for the model: CUDA error: out of memory. Try a GPU with more "
            "memory, or the processor: CUDA_VISIBLE_DEVICES= before the command.",
        ),
    ],
)  # fmt: skip
def test_what_to_type_is_said(error: RuntimeError, kept: Kept, message: str) -> None:
    with pytest.raises(ConfigError) as said, gpu_holds("the model", kept):
        raise error
    assert str(said.value) == message


@pytest.mark.parametrize(
    "error", [RuntimeError("cuBLAS went wrong"), ValueError("CUDA out of memory")]
)
def test_other_errors_are_themselves(error: Exception) -> None:
    with pytest.raises(type(error)) as said, gpu_holds("the model", "fp32"):
        raise error
    assert said.value is error


@pytest.mark.parametrize(
    ("side_by_side", "advice"),
    [(16, "Try --batch-size 8 and another --out, or --weights bf16"), (1, "Try --weights bf16")],
)
def test_task_says_how_many_answers_may_be_fewer(
    monkeypatch: pytest.MonkeyPatch, side_by_side: int, advice: str
) -> None:
    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(writer, "load_planned_model", lambda plan: None)
    monkeypatch.setattr(writer, "write_part", full)
    settings = SimpleNamespace(weights="fp32", batch_size=side_by_side)
    plan: Any = SimpleNamespace(settings=settings)
    write = GenerateJob("out.jsonl", 1).writer(plan)

    with pytest.raises(ConfigError, match=f"for {side_by_side} answers side by side: .*{advice}"):
        write(0)
