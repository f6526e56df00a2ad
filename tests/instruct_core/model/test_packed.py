"""A packed model answers as the plain one, alone and in a batch, and its plain matrices are gone."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from instruct_core.answers.generation import generate
from instruct_core.config import PRESETS, ModelConfig
from instruct_core.llama_config import LlamaConfig
from instruct_core.model import products, weights
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.model.packed import can_pack, pack
from instruct_core.shape import Shape

pytestmark = pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN")

SHAPES: dict[str, Shape] = {
    "gpt2": ModelConfig(num_layers=2, num_heads=3, width=96, max_seq_len=128, vocab_size=331),
    "tied": PRESETS["tiny-llama"],
    "biased": LlamaConfig(
        model_type="qwen2", num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, width=64,
        mlp_width=160, max_seq_len=128, vocab_size=500,
    ),
}  # fmt: skip


def models(kind: str, texts: int) -> tuple[Model, Model]:
    """A plain model, and one of the same weights that was packed."""
    plain, packed = (build(SHAPES[kind]).eval() for _ in range(2))
    plain.initialize(1)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    packed.load_state_dict(plain.state_dict())
    pack(packed, texts)
    return plain, packed


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("texts", [1, 16])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (1, 70), (3, 1), (40, 2)])
@torch.inference_mode()
def test_scores_are_those_of_the_plain_model(
    kind: str, texts: int, batch: int, tokens: int
) -> None:
    plain, packed = models(kind, texts)
    words = torch.randint(0, 300, (batch, tokens), generator=torch.Generator().manual_seed(2))
    places = torch.arange(tokens).expand_as(words)

    expected = plain.last_logits(plain(words, places, None))

    found = packed.last_logits(packed(words, places, None))
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", SHAPES)
@torch.inference_mode()
def test_activations_are_computed_with_the_product_that_they_are_of(kind: str) -> None:
    _, packed = models(kind, 1)
    places = torch.arange(9)[None]

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        packed(places + 1, places, None)

    called = {event.key for event in profiler.key_averages()}
    assert "mkldnn::_linear_pointwise" in called
    assert not {"aten::gelu", "aten::silu"} & called


@pytest.mark.parametrize("kind", SHAPES)
def test_greedy_texts_are_those_of_the_plain_model_alone_and_in_a_batch(kind: str) -> None:
    plain, packed = models(kind, 1)
    prompts = [[5, 6, 7], list(range(40, 80)), [9]]

    together = generate(packed, prompts, max_new_tokens=20)

    assert together == generate(plain, prompts, max_new_tokens=20)
    assert together == [generate(packed, [prompt], max_new_tokens=20)[0] for prompt in prompts]


@pytest.mark.parametrize(
    ("cpuinfo", "texts", "expected"),
    [
        ("vendor_id : GenuineIntel", 1, False),
        ("vendor_id : GenuineIntel", 2, True),
        ("vendor_id : AuthenticAMD", 1, True),
        ("CPU implementer : 0x41", 1, True),
    ],
)
def test_for_one_text_nothing_is_packed_on_processors_of_intels(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str, texts: int, expected: bool
) -> None:
    monkeypatch.setattr(products, "_processor", lambda: cpuinfo)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked_anew = products.is_plain_best_for_a_row.__wrapped__
    monkeypatch.setattr(weights, "is_plain_best_for_a_row", asked_anew)

    answering = weights.ready(models("gpt2", 1)[0], texts)

    assert (answering.answering_head is not None) == expected


@pytest.mark.parametrize("kind", SHAPES)
def test_plain_matrices_are_gone_but_for_what_tokens_are_looked_up_in(kind: str) -> None:
    plain, packed = models(kind, 1)
    has_own_head = hasattr(plain, "lm_head")
    kept = {name for name, value in packed.state_dict().items() if value.dim() == 2}

    heads = {"lm_head.weight"} if has_own_head else set()
    assert kept - heads <= {
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "model.embed_tokens.weight",
    }


@torch.inference_mode()
def test_step_meets_the_packed_head_and_not_the_plain_one() -> None:
    _, packed = models("gpt2", 1)
    hidden = torch.ones(2, 3, 96)
    expected = packed.last_logits(hidden)

    packed.head_weight.zero_()

    assert torch.equal(packed.last_logits(hidden), expected)
    assert not packed.logits(hidden).any()
