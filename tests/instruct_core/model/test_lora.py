"""Adapters: what they add, what is trained of them, and that PEFT computes the same."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from instruct_core.config import PRESETS, TrainConfig
from instruct_core.errors import ConfigError, CorruptFileError
from instruct_core.lora_settings import CONFIG_FILE, Base, Lora, chosen, usual_targets
from instruct_core.model.adapters import find_adapter
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.lora import (
    adapt,
    draw,
    load_saved,
    projections,
    saved_tensors,
    sides,
)
from instruct_core.model.weights import hash_weights, load_pretrained
from instruct_core.train.loss import WithLoss
from instruct_core.train.optimizer import make_optimizer
from tests.instruct_core.model.small_adapters import SHAPE, adapted, base_model, save

# PEFT 0.21 asks transformers 5.23 by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.*:FutureWarning")

TOKENS = torch.tensor([[50, 6000, 41000, 7, 7, 50255]])
TARGETS = ["c_attn", "all", "mlp.c_proj,c_fc", "transformer.h.1.attn.c_proj"]


@torch.no_grad()
def scores(model: Model, tokens: Tensor = TOKENS) -> Tensor:
    return model.logits(model(tokens, torch.arange(tokens.shape[1])[None], None))


def loaded(place: Path) -> Model:
    shape, weights = load_pretrained(str(place))
    model = build(shape).eval()
    model.load_state_dict(weights)
    return model


def test_adapted_model_begins_as_its_base() -> None:
    model = base_model()
    before = scores(model)

    adapt(model, Lora(4, 8.0, "all"), dropout=0.0)
    draw(model, seed=1)

    assert torch.equal(scores(model), before)


@pytest.mark.parametrize("targets", TARGETS)
def test_merged_weights_compute_what_the_adapted_model_does(
    targets: str, base_folder: Path, tmp_path: Path
) -> None:
    model, lora = adapted(targets)
    base = Base(str(base_folder), hash_weights(base_model().state_dict()))
    folder = save(tmp_path / "adapter", model, lora, base)

    merged = scores(loaded(folder))

    assert (merged - scores(model)).abs().max() < 1e-5
    assert (merged - scores(base_model())).abs().max() > 0.1, "the adapters add nothing"


@pytest.mark.parametrize("targets", TARGETS[:-1])
def test_peft_computes_the_same_with_our_adapters(
    targets: str, base_folder: Path, tmp_path: Path
) -> None:
    model, lora = adapted(targets)
    folder = save(tmp_path / "adapter", model, lora, Base(str(base_folder), ""))

    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_folder), folder
    ).eval()

    with torch.no_grad():
        assert (theirs(TOKENS).logits - scores(model)).abs().max() < 1e-5


def test_adapters_of_peft_are_taken_on_the_base_that_they_name(
    base_folder: Path, tmp_path: Path
) -> None:
    base = GPT2LMHeadModel.from_pretrained(base_folder)
    settings = LoraConfig(
        r=4, lora_alpha=3, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True,
        init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = get_peft_model(base, settings).eval()
    theirs.save_pretrained(tmp_path / "adapter")

    ours = scores(loaded(tmp_path / "adapter"))

    with torch.no_grad():
        assert (theirs(TOKENS).logits - ours).abs().max() < 1e-5


def train_a_step(model: GPT2) -> None:
    config = TrainConfig("r", "s", "c", "r", "random", "tiny", "f", learning_rate=1e-2)
    optimizer = make_optimizer(model, config)
    zeros = torch.zeros_like(TOKENS)
    WithLoss(model.train())(TOKENS, TOKENS, torch.arange(TOKENS.shape[1])[None], zeros).backward()
    optimizer.step()


def test_a_step_changes_the_adapters_and_nothing_else() -> None:
    model, _ = adapted("all")
    before = {name: value.clone() for name, value in model.state_dict().items()}

    train_a_step(model)

    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {name for name in before if ".lora_" in name}
    assert {n for n, p in model.named_parameters() if p.grad is not None} == changed


def test_what_is_saved_is_the_adapters_alone_and_comes_back_to_the_bit() -> None:
    model, lora = adapted("all")
    tensors = {name: value.clone() for name, value in saved_tensors(model).items()}
    again = base_model()
    adapt(again, lora, dropout=0.0)

    load_saved(again, tensors)

    assert all(".lora_" in name for name in tensors)
    assert torch.equal(scores(again), scores(model))
    assert all(p.requires_grad == (".lora_" in name) for name, p in again.named_parameters())


def test_adapters_of_another_rank_are_not_loaded() -> None:
    model, _ = adapted("c_attn")
    other = base_model()
    adapt(other, Lora(2, 4.0, "c_attn"), dropout=0.0)

    with pytest.raises(
        CorruptFileError, match=r"are of another model: .*lora_A.* has shape \(4, 32\)"
    ):
        load_saved(other, saved_tensors(model))


@contextlib.contextmanager
def in_bits(half: torch.dtype) -> Iterator[None]:
    with torch.autocast("cpu", half):
        yield


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_base_in_16_bits_computes_the_same_bits_where_products_are_in_them(
    half: torch.dtype,
) -> None:
    """Autocast rounds a float32 weight at every product; one that lies in 16 bits it takes as it is."""
    results = []
    for lies_in in (None, half):
        model = base_model().train()
        adapt(model, Lora(4, 8.0, "c_attn,c_fc"), dropout=0.0, half=lies_in)
        draw(model, seed=1)
        zeros = torch.zeros_like(TOKENS)
        with in_bits(half):
            loss = WithLoss(model)(TOKENS, TOKENS, torch.arange(TOKENS.shape[1])[None], zeros)
        loss.backward()
        gradients = [p.grad for _, p in sorted(model.named_parameters()) if p.requires_grad]
        results.append((loss.detach(), *gradients))

    halves = [p for p in model.parameters() if p.dtype == half]
    assert len(halves) == 2 * 4 * SHAPE.num_layers  # weight and bias of every projection
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_seed_draws_the_same_adapters_and_another_one_others() -> None:
    drawn = []
    for seed in (1, 1, 2):
        model = base_model()
        adapt(model, Lora(4, 8.0, "all"), dropout=0.0)
        draw(model, seed)
        drawn.append(torch.cat([t.flatten() for t in saved_tensors(model).values()]))

    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_dropout_is_on_what_enters_an_adapter() -> None:
    model = base_model()
    adapt(model, Lora(4, 8.0, "c_attn"), dropout=0.5)
    draw(model, seed=1)
    module = model.transformer.h[0].attn.c_attn
    with torch.no_grad():
        module.lora_B.weight.fill_(1.0)
    x = torch.ones(1, 3, SHAPE.width)

    def added() -> Tensor:
        with torch.no_grad():
            result: Tensor = module(x) - module.base_layer(x)
        return result

    module.eval()
    assert torch.equal(added(), added())
    module.train()
    assert not torch.equal(added(), added())


def test_checkpoint_with_the_usual_targets_is_under_two_percent_of_the_base() -> None:
    with torch.device("meta"):
        model = GPT2(PRESETS["gpt2"])
    found = projections(model)

    names = chosen(usual_targets(found), found)

    numbers = 8 * sum(sum(sides(found[name])) for name in names)
    saved = 3 * 4 * numbers  # and two moments
    assert saved < 0.02 * 4 * PRESETS["gpt2"].num_parameters


def test_target_that_is_no_projection_is_refused_with_those_that_are() -> None:
    for word in ("q_proj", "attn", "c_attn,", "wte", "C_ATTN", "lm_head"):
        with pytest.raises(
            ConfigError, match="--lora-targets must be all, or of c_attn, c_fc, c_proj"
        ):
            chosen(word, projections(base_model()))


@pytest.mark.parametrize("targets", ["q_proj,v_proj", "all"])
def test_adapters_of_a_llama_are_merged_and_are_pefts_too(targets: str, tmp_path: Path) -> None:
    """LoRA replaces projections by name: the family knows nothing of it."""
    torch.manual_seed(1)
    plain = LlamaForCausalLM(LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=320, max_position_embeddings=64, eos_token_id=2,
    ))  # fmt: skip
    plain.save_pretrained(tmp_path / "base")
    theirs = get_peft_model(
        plain,
        LoraConfig(
            r=4, lora_alpha=6, init_lora_weights=False, task_type="CAUSAL_LM",
            target_modules=targets.split(",") if targets != "all" else "all-linear",
        ),
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "adapter")
    change_base(tmp_path / "adapter", tmp_path / "base")
    tokens = TOKENS % 320
    adapter = find_adapter(str(tmp_path / "adapter"))
    assert adapter is not None

    merged = loaded(tmp_path / "adapter")
    unmerged = loaded(tmp_path / "base")
    adapt(unmerged, Lora(4, 6.0, targets), dropout=0.0)
    load_saved(unmerged, adapter.tensors)

    with torch.no_grad():
        expected = theirs(tokens).logits
    assert (scores(merged, tokens) - expected).abs().max() < 1e-5
    assert (scores(unmerged.eval(), tokens) - expected).abs().max() < 1e-5


def change_base(adapter: Path, base: Path) -> None:
    path = adapter / CONFIG_FILE
    said = json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}
    path.write_text(json.dumps(said))
