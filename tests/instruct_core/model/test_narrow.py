"""A model that computes in 16 bits, as on a GPU: nearly the scores of the wide one."""

from __future__ import annotations

import pytest
import torch

from instruct_core.answers.generation import generate
from instruct_core.errors import ConfigError
from instruct_core.model import weights
from instruct_core.model.cache import Cache
from instruct_core.model.family import Model
from instruct_core.model.halves import HALVES
from instruct_core.model.packed import narrow
from instruct_core.model.step import record_on_gpu, scores
from instruct_core.model.weights import ready
from instruct_core.recipe import Kept, refuse_kept
from instruct_core.train.loss import summed_loss
from tests.instruct_core.model.test_halved import drawn
from tests.instruct_core.model.test_packed import SHAPES

BITS = {"bf16": 8, "fp16": 11}  # of a number


@pytest.mark.parametrize("kept", HALVES)
@pytest.mark.parametrize("kind", SHAPES)
@torch.inference_mode()
def test_scores_are_nearly_those_of_the_wide_model(kind: str, kept: Kept) -> None:
    wide, model = drawn(kind), drawn(kind)
    narrow(model, kept)
    words = torch.randint(0, 300, (2, 90), generator=torch.Generator().manual_seed(2))
    places = torch.arange(90).expand_as(words)

    expected = wide.logits(wide(words, places, None))
    found = model.logits(model(words, places, None))

    assert found.dtype == HALVES[kept]
    off = (found.float() - expected).square().mean(-1).sqrt() / expected.std()  # (2, 90)
    assert 0 < off.mean() < 2 * 2 ** -BITS[kept]
    assert off.max() < 6 * 2 ** -BITS[kept]
    assert {p.dtype for p in model.parameters()} == {HALVES[kept]}
    # By how much each position turns: rounded, it would be off by whole turns far into a text.
    assert {table.dtype for table in model.buffers()} <= {torch.float32}


@pytest.mark.parametrize("kind", SHAPES)
@torch.inference_mode()
def test_cache_is_as_narrow_and_scores_are_not(kind: str) -> None:
    model = drawn(kind)
    narrow(model, "bf16")
    words = torch.randint(0, 300, (1, 12), generator=torch.Generator().manual_seed(3))
    cache = Cache(model.config, model.head_weight)

    found = scores(model, words[:, :11], cache.begin([11]), cache)
    found = scores(model, words[:, 11:], cache.grow(cache.lengthen()), cache)

    expected = model.logits(model(words, torch.arange(12)[None], None))[:, -1].float()
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.std()
    assert {rows.dtype for layer in cache._layers for rows in layer} == {torch.bfloat16}


def test_narrow_model_answers_and_has_a_loss() -> None:
    model = drawn("llama" if "llama" in SHAPES else next(iter(SHAPES)))
    narrow(model, "bf16")

    [text] = generate(model, [[1, 2, 3]], max_new_tokens=9)
    hidden = model(torch.tensor([[1, 2, 3]]), torch.arange(3)[None], None)
    loss = summed_loss(hidden.detach(), model.head_weight.detach(), torch.tensor([[2, 3, 4]]))

    assert len(text.tokens) == 9 or text.finish_reason == "end"
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_weight_that_float16_cannot_hold_is_refused_by_name() -> None:
    model = drawn("gpt2")
    with torch.no_grad():
        model.get_parameter("transformer.ln_f.bias")[3] = 70_000.0

    with pytest.raises(
        ConfigError, match=r"65,504, and transformer\.ln_f\.bias of this model has 70,"
    ):
        narrow(model, "fp16")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    narrow(model, "bf16")


@pytest.mark.parametrize(
    ("kept", "on_gpu", "has_bf16", "message"),
    [
        ("bf16", False, False, "--weights bf16 is for GPUs, and partition p has none. Give --weights f"),
        ("bf16", True, False, "--weights bf16 needs a GPU since Ampere, and partition p has an older"),
        ("bf16", True, True, ""),
        ("fp16", True, False, ""),
        ("fp16", False, False, ""),
        ("fp32", False, False, ""),
    ],
)  # fmt: skip
def test_numbers_that_a_machine_cannot_compute_in_are_refused(
    kept: Kept, on_gpu: bool, has_bf16: bool, message: str
) -> None:
    if not message:
        refuse_kept(kept, on_gpu, has_bf16, "partition p")
        return
    with pytest.raises(ConfigError, match=message):
        refuse_kept(kept, on_gpu, has_bf16, "partition p")


@pytest.mark.parametrize("kept", ["fp32", "bf16", "fp16"])
def test_gpu_never_holds_wider_weights(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, tried, cudnn = list[set[torch.dtype]](), list[object](), list[bool]()
    model = drawn("gpt2")

    def to(place: str) -> Model:
        assert place == "cuda"
        sent.append({p.dtype for p in model.parameters()})
        return model

    monkeypatch.setattr(weights.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(weights, "_has_bf16", lambda: True)
    monkeypatch.setattr(model, "to", to)
    monkeypatch.setattr(weights, "try_recorder", lambda model, recorder: tried.append(recorder))
    monkeypatch.setattr(weights.torch.backends.cuda, "enable_cudnn_sdp", cudnn.append)

    ready(model, kept=kept)

    assert tried == [record_on_gpu]
    assert cudnn == [False]
    assert sent == [{HALVES.get(kept, torch.float32)}]


def test_gpu_without_bf16_is_told_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(weights, "_has_bf16", lambda: False)

    with pytest.raises(ConfigError, match="bf16 needs a GPU since Ampere, and this machine has an"):
        weights.load_model("nowhere", kept="bf16")
