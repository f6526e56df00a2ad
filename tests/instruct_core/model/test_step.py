"""Steps that are recorded and repeated: the same texts, by nothing that a GPU cannot repeat."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from instruct_core.answers.generation import generate
from instruct_core.answers.sampling import Sampling
from instruct_core.config import ModelConfig
from instruct_core.model.family import Recording
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.step import FIRST_STEPS
from instruct_core.model.weights import load_model
from tests.instruct_core.answers.asking import alone
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


def until(lengths: list[int]) -> Callable[[int, int], bool]:
    answered = Counter[int]()

    def goes_on(text: int, _: int) -> bool:
        answered[text] += 1
        return answered[text] < lengths[text]

    return goes_on


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


def raises(step: Callable[[], Tensor]) -> Recording:
    raise RuntimeError("CUDA error: operation not permitted\nCompile with ...")


def repeats_nothing(step: Callable[[], Tensor]) -> Recording:
    return Recording(lambda: None, torch.zeros_like(step()))


def repeats_the_first(step: Callable[[], Tensor]) -> Recording:
    first = step().clone()
    return Recording(lambda: first.add_(1.0), first)


@pytest.mark.parametrize("recorder", [raises, repeats_nothing, repeats_the_first])
def test_gpu_that_cannot_repeat_a_step_answers_all_the_same(
    model: GPT2,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recorder: Callable[[Callable[[], Tensor]], Recording],
) -> None:
    batch = prompts(2)
    expected = generate(model, batch, max_new_tokens=40)
    monkeypatch.setattr(model, "recorder", recorder)

    with caplog.at_level(logging.WARNING):
        found = generate(model, batch, max_new_tokens=40)

    assert found == expected
    assert model.recorder is None
    [line] = caplog.messages
    assert "answers take longer: " in line
    assert "Compile" not in line
