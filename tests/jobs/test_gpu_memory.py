"""A GPU without memory for a model that answers: one line that says what to type."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from instruct_core.answers import writer
from instruct_core.errors import ConfigError
from jobs.generate import GenerateJob
from jobs.gpu_memory import advice_of_a_command, advice_of_a_task, gpu_holds

FULL = "CUDA out of memory. Tried to allocate 192.00 MiB. GPU 0 has a total capacity of 23.57 GiB"
NO_CONTEXT = "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError(FULL), "CUDA out of memory"),
        (RuntimeError(NO_CONTEXT), "CUDA error: out of memory"),
    ],
)
def test_what_to_do_is_said(error: RuntimeError, said: str) -> None:
    with pytest.raises(ConfigError) as refused, gpu_holds("the model", "Take another."):
        raise error
    assert (
        str(refused.value) == f"The GPU has too little memory for the model: {said}. Take another."
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("cuBLAS went wrong"), ValueError("CUDA out of memory")]
)
def test_other_errors_are_themselves(error: Exception) -> None:
    with pytest.raises(type(error)) as said, gpu_holds("the model", ""):
        raise error
    assert said.value is error


def test_advice_is_what_can_be_typed_there() -> None:
    half = "--weights bf16 (fp16 on GPUs before Ampere), which halves the model"

    assert advice_of_a_command("fp32").startswith(
        f"Give {half}, or use a GPU with more memory, or "
    )
    assert advice_of_a_command("bf16").startswith(
        "Use a GPU with more memory, or have the processor"
    )
    assert advice_of_a_task("fp32").startswith(f"Give {half}, and another --out, or use GPUs with")
    assert advice_of_a_task("fp32", 16).startswith(
        f"Give --batch-size 8 or {half}, and another --out"
    )
    assert advice_of_a_task("bf16", 1) == (
        "Use GPUs with more memory, or a machine or --partition without any."
    )


def test_task_says_how_many_answers_may_be_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(writer, "load_planned_model", lambda plan: None)
    monkeypatch.setattr(writer, "write_part", full)
    plan: Any = SimpleNamespace(settings=SimpleNamespace(weights="bf16", batch_size=16))
    write = GenerateJob("out.jsonl", 1).writer(plan)

    with pytest.raises(
        ConfigError, match=r"the model and --batch-size 16: .* Give --batch-size 8, and"
    ):
        write(0)
