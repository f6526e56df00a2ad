"""Steps that are recorded and repeated: the same texts, by nothing that a GPU cannot repeat."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from instruct_core.answers.generation import generate
from instruct_core.answers.sampling import Sampling
from instruct_core.config import ModelConfig
from instruct_core.model import cache
from instruct_core.model.attention import attend
from instruct_core.model.family import Model, Recording
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.packed import narrow
from instruct_core.model.step import FIRST_STEPS, try_recorder
from instruct_core.model.weights import load_model
from tests.instruct_core.answers.asking import alone, until
from tests.instruct_core.model.recording import Recorder
from tests.instruct_core.model.their_llama import reference, save_folder


@pytest.fixture
def model() -> GPT2:
    model = GPT2(ModelConfig(num_layers=3, num_heads=4, width=32, max_seq_len=256, vocab_size=300))
    model.initialize(seed=3)
    with torch.no_grad():  # so that scores differ enough to compare
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model.eval()


@pytest.fixture
def recorder(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(model, "recorder", recorder.record)
    return recorder


def prompts(count: int) -> list[list[int]]:
    draw = np.random.default_rng(count)
    return [draw.integers(300, size=draw.integers(1, 30)).tolist() for _ in range(count)]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(repetition_penalty=1.5),
        Sampling(temperature=1.0, top_k=40, top_p=0.9, repetition_penalty=1.1, seed=5),
    ],
    ids=["greedy", "penalty", "nucleus"],
)
def test_texts_of_recorded_steps_are_the_texts_alone(
    model: GPT2, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    """They come and go beside each other, and rows get longer and fewer meanwhile."""
    recorder, batch = Recorder(), prompts(11)
    lengths = [120 if n % 7 == 0 else 12 + len(prompt) for n, prompt in enumerate(batch)]
    expected = [
        alone(model, prompt, max_new_tokens=120, sampling=sampling, streams=[n]).tokens[:length]
        for n, (prompt, length) in enumerate(zip(batch, lengths, strict=True))
    ]
    monkeypatch.setattr(model, "recorder", recorder.record)

    found = generate(
        model, batch, side_by_side=4, max_new_tokens=120, sampling=sampling, on_token=until(lengths)
    )

    assert [text.tokens for text in found] == expected
    assert recorder.recordings > 1
    assert recorder.repetitions > 60


@pytest.mark.parametrize("kind", ["llama-3", "qwen3"])
def test_texts_of_a_llama_are_too(tmp_path: Path, kind: str) -> None:
    save_folder(tmp_path / "m", reference(kind))
    model, recorder, batch = load_model(str(tmp_path / "m")), Recorder(), [[5, 9], [7] * 20, [8]]
    expected = generate(model, batch, max_new_tokens=60)
    model.recorder = recorder.record

    assert generate(model, batch, max_new_tokens=60) == expected
    assert recorder.repetitions > 40


def test_step_is_recorded_once_for_as_long_as_the_rows_suffice(
    model: GPT2, recorder: Recorder
) -> None:
    """70 tokens have room behind a prompt of 10, for 40 more rows are made anew."""
    generate(model, [[1] * 10], max_new_tokens=71)
    assert recorder.recordings == 1

    generate(model, [[1] * 10], max_new_tokens=71 + 40)
    assert recorder.recordings == 3


def test_few_steps_are_not_recorded(model: GPT2, recorder: Recorder) -> None:
    generate(model, [[1], [2, 3]], max_new_tokens=1 + FIRST_STEPS)

    assert recorder.recordings == 0


@pytest.mark.parametrize("kind", ["gpt2", "smollm2"])
def test_attention_of_a_gpu_is_recorded_too(
    tmp_path: Path, model: GPT2, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A GPU takes torch's kernels, also where heads share keys, and not the products that a CPU does."""
    chosen: Model = model
    if kind != "gpt2":
        save_folder(tmp_path / "m", reference(kind))
        chosen = load_model(str(tmp_path / "m"))
    monkeypatch.setattr(cache, "attend_from_one", attend)
    recorder = Recorder()
    batch = [[5, 9], [7] * 20, [8]]

    with sdpa_kernel(SDPBackend.MATH):
        expected = generate(chosen, batch, max_new_tokens=40)
        chosen.recorder = recorder.record
        found = generate(chosen, batch, max_new_tokens=40)

    assert found == expected
    assert recorder.repetitions > 25


ASKS_THE_HOST: list[Callable[[Tensor], Any]] = [
    lambda x: x[0].item(),
    lambda x: int(x[1]),
    lambda x: bool((x > 0).any()),
    lambda x: x[x > 1],
    lambda x: torch.where(x > 1)[0],
    lambda x: x.unique(),
    lambda x: torch.allclose(x, x),
    lambda x: torch.tensor([1]),
    lambda x: x.repeat_interleave(x),
]


@pytest.mark.parametrize("asks", ASKS_THE_HOST)
@torch.inference_mode()
def test_stand_in_refuses_what_a_gpu_does(asks: Callable[[Tensor], Any]) -> None:
    x = torch.arange(4)

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        Recorder().record(lambda: asks(x))


def raises(step: Callable[[], Tensor]) -> Recording:
    raise RuntimeError("CUDA error: operation not permitted\nCompile with ...")


def test_gpu_that_refuses_answers_all_the_same(
    model: GPT2, caplog: pytest.LogCaptureFixture
) -> None:
    batch = prompts(2)
    expected = generate(model, batch, max_new_tokens=40)
    model.recorder = raises

    with caplog.at_level(logging.WARNING):
        found = generate(model, batch, max_new_tokens=40)

    assert found == expected
    assert model.recorder is None
    [line] = caplog.messages
    assert "answers take longer: " in line
    assert "Compile" not in line


def test_texts_without_room_for_a_recording_go_without_and_others_do_not(
    model: GPT2, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, refused = Recorder(), list[int]()

    def once(step: Callable[[], Tensor]) -> Recording:
        if not refused:
            refused.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return recorder.record(step)

    batch = prompts(2)
    expected = generate(model, batch, max_new_tokens=40)
    model.recorder = once

    assert generate(model, batch, max_new_tokens=40) == expected
    assert recorder.recordings == 0
    assert generate(model, batch, max_new_tokens=40) == expected
    assert recorder.recordings == 1
    assert not caplog.messages


def test_ctrl_c_while_a_step_is_recorded_ends_the_answer(model: GPT2) -> None:
    """CUDA then says that the recording was cut off, in place of it."""

    def cut_off(step: Callable[[], Tensor]) -> Recording:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("capture was invalidated")

    model.recorder = cut_off

    with pytest.raises(KeyboardInterrupt):
        generate(model, prompts(1), max_new_tokens=40)


def repeats_nothing(step: Callable[[], Tensor]) -> Recording:
    return Recording(lambda: None, torch.zeros_like(step()))


def repeats_the_first(step: Callable[[], Tensor]) -> Recording:
    return Recording(lambda: None, step())


def with_first_places(step: Callable[[], Tensor]) -> Recording:
    """The same with what the host knew at first: new tokens go where the first one went."""
    made = step.__self__  # type: ignore[attr-defined]
    first, result = made._places.clone(), step().clone()

    def repeat() -> None:
        now = made._places
        made._places = first
        result.copy_(step())
        made._places = now

    return Recording(repeat, result)


@pytest.mark.parametrize("recorder", [repeats_nothing, repeats_the_first, with_first_places])
def test_recorder_that_repeats_something_else_is_found_out_before_a_text_is_spoiled(
    model: GPT2,
    caplog: pytest.LogCaptureFixture,
    recorder: Callable[[Callable[[], Tensor]], Recording],
) -> None:
    with caplog.at_level(logging.WARNING):
        try_recorder(model, recorder)

    assert model.recorder is None
    assert caplog.messages == [
        "this GPU cannot repeat steps, so answers take longer: a repeated one had other results"
    ]


@pytest.mark.parametrize("kind", ["gpt2", "bf16", "smollm2"])
def test_recorder_that_repeats_the_step_is_kept(
    tmp_path: Path, model: GPT2, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    chosen: Model = model
    if kind == "bf16":
        narrow(model, "bf16")
    elif kind == "smollm2":
        save_folder(tmp_path / "m", reference(kind))
        chosen = load_model(str(tmp_path / "m"))
    recorder = Recorder()

    try_recorder(chosen, recorder.record)

    assert chosen.recorder is not None
    assert (recorder.recordings, recorder.repetitions) == (1, 4)
    assert not caplog.messages


def test_model_that_computes_nan_and_one_of_few_positions_are_not_tried_aloud(
    model: GPT2, caplog: pytest.LogCaptureFixture
) -> None:
    short = GPT2(ModelConfig(num_layers=1, num_heads=2, width=8, max_seq_len=4, vocab_size=9))
    short.initialize(1)
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(math.nan)

    for each in (short, model):
        try_recorder(each.eval(), Recorder().record)

    assert short.recorder is None
    assert model.recorder is None
    assert not caplog.messages
