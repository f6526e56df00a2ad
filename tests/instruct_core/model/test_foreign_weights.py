"""Settings of other people's models: the same scores as theirs, or a refusal by name."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel

from instruct_core.config import PRESETS
from instruct_core.errors import (
    ConfigError,
)
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.weights import load_pretrained
from tests.instruct_core.model.their_gpt2 import (
    HEADS,
    LAYERS,
    MODEL_ARGS,
    POSITIONS,
    as_linear,
    assert_same_scores,
    reference,
    save_folder,
)


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    return reference()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale_attn_by_inverse_layer_idx", True),
        ("scale_attn_weights", False),
        ("layer_norm_epsilon", 1e-6),
        ("activation_function", "relu"),
        ("activation_function", "gelu"),
        ("reorder_and_upcast_attn", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("model_type", "gptj"),
        ("eos_token_id", 0),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
        ("auto_map", {"AutoModelForCausalLM": "modeling.Other"}),
        ("position_embedding_type", "rotary"),
        ("use_qk_norm", True),
        ("n_layer", LAYERS + 1),
        ("n_positions", 2 * POSITIONS),
    ],
)
def test_relative_of_gpt2_is_refused_by_the_setting(
    theirs: GPT2LMHeadModel, tmp_path: Path, name: str, value: Any
) -> None:
    save_folder(tmp_path, theirs, **{name: value})

    with pytest.raises(ConfigError, match=f"config.json .*{name}"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("model_type", [None, "gpt2"])
def test_folder_that_does_not_name_its_family_is_told_so_where_it_is_no_gpt2(
    theirs: GPT2LMHeadModel, tmp_path: Path, model_type: str | None
) -> None:
    save_folder(tmp_path, theirs, use_qk_norm=True, model_type=model_type)

    with pytest.raises(ConfigError, match="use_qk_norm") as refused:
        load_pretrained(str(tmp_path))

    is_said = "because config.json has no model_type: if it is another, add that" in str(
        refused.value
    )
    assert is_said == (model_type is None)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer_norm_epsilon": 1.0e-05, "activation_function": "gelu_pytorch_tanh"},
        {"use_cache": True, "gradient_checkpointing": True, "torch_dtype": "float16"},
        {"resid_pdrop": 0.3, "task_specific_params": {"text-generation": {"do_sample": True}}},
        {"n_ctx": 1024, "scale_attn_weights": True, "quantization_config": None},
        {"num_attention_heads": HEADS, "eos_token_id": [50256], "_name_or_path": "somebody/gpt2"},
    ],
)
def test_setting_that_changes_nothing_is_no_obstacle(
    theirs: GPT2LMHeadModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    save_folder(tmp_path, theirs, **settings)

    assert_same_scores(tmp_path, theirs)


def test_relative_in_a_pickle_is_refused_by_the_setting(
    theirs: GPT2LMHeadModel, tmp_path: Path
) -> None:
    args = MODEL_ARGS | {"scale_attn_by_inverse_layer_idx": True}
    torch.save({"model": as_linear(theirs), "model_args": args}, tmp_path / "ckpt.pt")

    with pytest.raises(ConfigError, match="model_args has scale_attn_by_inverse_layer_idx True"):
        load_pretrained(str(tmp_path / "ckpt.pt"))


def test_models_own_word_counts_before_the_trainings(
    theirs: GPT2LMHeadModel, tmp_path: Path
) -> None:
    """nanoGPT's `config` keeps n_head = 12 of train.py whatever it began from."""
    config = {"n_head": 12, "n_layer": 12, "n_embd": 768, "compile": True, "init_from": "gpt2-xl"}
    content = {"model": as_linear(theirs), "config": config, "model_args": MODEL_ARGS}
    torch.save(content, tmp_path / "ckpt.pt")

    assert_same_scores(tmp_path / "ckpt.pt", theirs)


def test_places_that_differ_are_both_named(theirs: GPT2LMHeadModel, tmp_path: Path) -> None:
    content = {"model": as_linear(theirs), "config": {"n_head": 2}, "args": {"n_head": HEADS}}
    torch.save(content, tmp_path / "a.pt")

    with pytest.raises(ConfigError, match="n_head of config says 2, n_head of args says 6"):
        load_pretrained(str(tmp_path / "a.pt"))


def test_training_of_another_shape_says_nothing_of_the_heads(
    theirs: GPT2LMHeadModel, tmp_path: Path
) -> None:
    content = {"model": as_linear(theirs), "config": {"n_head": 12, "n_embd": 768}}
    torch.save(content, tmp_path / "a.pt")

    with pytest.raises(ConfigError, match="n_embd is 768, and the weights have 24"):
        load_pretrained(str(tmp_path / "a.pt"))


def test_heads_that_nothing_tells_are_refused(theirs: GPT2LMHeadModel, tmp_path: Path) -> None:
    torch.save({"model": as_linear(theirs)}, tmp_path / "a.pt")

    with pytest.raises(ConfigError, match="does not say how many heads"):
        load_pretrained(str(tmp_path / "a.pt"))


def test_guess_of_a_published_shape_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = GPT2(PRESETS["small-demo"])
    model.initialize(1)
    torch.save(model.state_dict(), tmp_path / "a.pt")

    with caplog.at_level(logging.WARNING):
        shape, _ = load_pretrained(str(tmp_path / "a.pt"))

    assert shape == PRESETS["small-demo"]
    assert "4 heads guessed from 4 layers of width 256, as small-demo has" in caplog.text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tensor", ["transformer.h.1.mlp.c_fc.weight", "transformer.wte.weight"])
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, number: float, tensor: str
) -> None:
    broken = reference()
    broken.state_dict()[tensor].view(-1)[-3] = number
    broken.save_pretrained(tmp_path)

    with pytest.raises(ConfigError, match=f"{tensor} has numbers that are not finite"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("kinds", [(".c_",), (".ln_",), (".c_", ".ln_")])
def test_model_without_biases_has_biases_of_zero(tmp_path: Path, kinds: Iterable[str]) -> None:
    model = reference()
    absent = [
        name for name, _ in model.named_parameters()
        if name.endswith(".bias") and any(kind in name for kind in kinds)
    ]  # fmt: skip
    for name in absent:
        model.state_dict()[name].zero_()
    weights = {name: value for name, value in as_linear(model).items() if name not in absent}
    torch.save({"model": weights, "model_args": MODEL_ARGS | {"bias": False}}, tmp_path / "ckpt.pt")

    assert_same_scores(tmp_path / "ckpt.pt", model)
