"""A model that keeps its weights in float16 answers as one whose weights were rounded to it."""

from __future__ import annotations

import pytest
import torch

from instruct_core.answers.generation import generate
from instruct_core.errors import ConfigError
from instruct_core.model import weights
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.model.lora import projections
from instruct_core.model.packed import HalvedLinear, can_halve, halve
from instruct_core.model.weights import ready
from tests.instruct_core.model.test_packed import SHAPES

pytestmark = pytest.mark.skipif(not can_halve(), reason="this torch has no FBGEMM")


def drawn(kind: str) -> Model:
    """A model whose biases say something too."""
    model = build(SHAPES[kind]).eval()
    model.initialize(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return model


def rounded(kind: str) -> Model:
    """The same with its matrices and its head rounded, computed as ever."""
    model = drawn(kind)
    with torch.no_grad():
        matrices = [module.get_parameter("weight") for module in projections(model).values()]
        for weight in (*matrices, model.head_weight):
            weight.copy_(weight.half())
    return model


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 70), (3, 1), (40, 2)])
@torch.inference_mode()
def test_scores_are_those_of_the_rounded_model_in_float32(
    kind: str, batch: int, tokens: int
) -> None:
    halved, expected_of = drawn(kind), rounded(kind)
    halve(halved)
    words = torch.randint(0, 300, (batch, tokens), generator=torch.Generator().manual_seed(2))
    places = torch.arange(tokens).expand_as(words)

    found = halved.last_logits(halved(words, places, None))

    expected = expected_of.last_logits(expected_of(words, places, None))
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert torch.equal(halved.head_weight, expected_of.head_weight)  # which losses are taken with


@pytest.mark.parametrize("kind", SHAPES)
def test_greedy_texts_are_those_of_the_rounded_model_alone_and_in_a_batch(kind: str) -> None:
    halved = drawn(kind)
    halve(halved)
    prompts = [[5, 6, 7], list(range(40, 80)), [9]]

    together = generate(halved, prompts, max_new_tokens=20)

    assert together == generate(rounded(kind), prompts, max_new_tokens=20)
    assert together == [generate(halved, [prompt], max_new_tokens=20)[0] for prompt in prompts]


@pytest.mark.parametrize("kind", SHAPES)
def test_plain_matrices_are_gone(kind: str) -> None:
    halved = drawn(kind)

    halve(halved)

    assert not projections(halved)
    assert isinstance(halved.answering_head, HalvedLinear)


@pytest.mark.parametrize("name", ["transformer.h.1.mlp.c_fc", "the output head"])
def test_weight_that_is_too_large_is_refused_by_name(name: str) -> None:
    model = drawn("gpt2")
    weight = (
        model.head_weight if name == "the output head" else model.get_parameter(f"{name}.weight")
    )
    with torch.no_grad():
        weight[3, 5] = -70_000.0

    with pytest.raises(ConfigError, match=f"65,504, and {name} of this model has 70,000"):
        halve(model)
    assert len(projections(model)) == 8  # none is replaced


def test_machine_that_cannot_keep_them_so_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(weights, "can_halve", lambda: False)

    with pytest.raises(ConfigError, match="--weights fp16 needs FBGEMM and a processor with AVX2"):
        ready(drawn("tied"), kept="fp16")
