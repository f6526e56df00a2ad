"""Whatever a config.json says that our Llama does not compute is refused by its name, value and place."""

from __future__ import annotations

from typing import Any

import pytest

from instruct_core.errors import ConfigError
from instruct_core.model.llama_settings import llama_shape
from tests.instruct_core.model.their_llama import SIZES, YARN

SLIDING = ["full_attention", "sliding_attention", "full_attention"]


def shape_of(model_type: str = "llama", **settings: Any) -> Any:
    return llama_shape(SIZES | {"model_type": model_type} | settings, "config.json", "some/model")


@pytest.mark.parametrize(
    ("model_type", "name", "value"),
    [
        ("llama", "hidden_act", "gelu"),
        ("llama", "some_new_setting", 0.5),
        ("llama", "some_new_switch", False),
        ("llama", "logits_scaling", 8.0),
        ("llama", "partial_rotary_factor", 0.5),
        ("llama", "rope_interleaved", True),
        ("llama", "num_local_experts", 8),
        ("llama", "quantization_config", {"quant_method": "fp8"}),
        ("llama", "auto_map", {"AutoModelForCausalLM": "modeling.Other"}),
        ("llama", "no_rope_layers", [1, 1, 1, 0]),
        ("llama", "layer_types", SLIDING),
        ("llama", "num_key_value_heads", 3),
        ("llama", "head_dim", 7),
        ("llama", "hidden_size", 32.0),
        ("llama", "hidden_size", None),
        ("llama", "num_hidden_layers", 0),
        ("llama", "num_hidden_layers", 1 << 40),
        ("llama", "vocab_size", True),
        ("llama", "rms_norm_eps", "1e-6"),
        ("llama", "rms_norm_eps", 0),
        ("llama", "rope_theta", -1),
        ("llama", "eos_token_id", 260),
        ("llama", "eos_token_id", [1, "2"]),
        ("llama", "tie_word_embeddings", "yes"),
        ("mistral", "sliding_window", 95),
        ("mistral", "attention_bias", True),
        ("qwen2", "mlp_bias", True),
        ("qwen2", "layer_types", SLIDING),
    ],
)
def test_setting_that_is_not_computed_is_refused(model_type: str, name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        shape_of(model_type, **{name: value})

    message = str(caught.value)
    assert message.startswith(
        f"Model some/model is no {model_type} that is computed here: config.json"
    )
    assert f" {name} {'nothing' if value is None else value}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("scaling", "named"),
    [
        ({"rope_type": "longrope", "factor": 4.0}, "rope_type longrope"),
        ({"type": "mrope", "mrope_section": [2, 2]}, "type mrope"),
        ({"rope_type": "linear"}, "factor nothing"),
        ({"rope_type": "linear", "factor": "4"}, "factor 4"),
        (YARN | {"short_mscale": 1.0}, "short_mscale 1.0"),
        (YARN | {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0},
            "high_freq_factor nothing",
        ),
        (
            {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4},
            "high_freq_factor 4",
        ),
    ],
)
@pytest.mark.parametrize("where", ["rope_scaling", "rope_parameters"])
def test_scaling_of_positions_that_is_not_computed_is_refused(
    scaling: dict[str, Any], named: str, where: str
) -> None:
    with pytest.raises(ConfigError, match=rf"config\.json has {where}\.{named}, and"):
        shape_of(**{where: scaling})


def test_window_of_some_layers_is_refused_where_it_is_used() -> None:
    window = {"use_sliding_window": True, "sliding_window": 50}

    with pytest.raises(ConfigError, match=r"sliding_window 50, and only null, or at least the 96"):
        shape_of("qwen3", max_window_layers=2, **window)
    with pytest.raises(ConfigError, match="sliding_window 50"):
        shape_of("qwen2", layer_types=SLIDING, **window)

    assert shape_of("qwen3", max_window_layers=3, **window) == shape_of("qwen3")
    assert shape_of("qwen2", sliding_window=50, max_window_layers=0) == shape_of("qwen2")


def test_mistral_that_says_nothing_of_its_window_has_one() -> None:
    assert shape_of("mistral").num_layers == 3

    with pytest.raises(ConfigError, match="sliding_window 4096"):
        shape_of("mistral", max_position_embeddings=8192)


@pytest.mark.parametrize(
    "settings",
    [
        {"torch_dtype": "bfloat16", "use_cache": True, "transformers_version": "4.40.1"},
        {"pretraining_tp": 4, "attention_dropout": 0.1, "initializer_range": 0.041666666666666664},
        {"is_llama_config": True, "rope_interleaved": False, "_name_or_path": "somebody/model"},
        {"rope_scaling": None, "quantization_config": None, "some_new_setting": None},
        {"layer_types": ["full_attention"] * 3, "transformers.js_config": {"dtype": "q4"}},
        {"do_sample": True, "temperature": 0.6, "hidden_act": "swish", "pad_token_id": -1},
    ],
)
def test_setting_that_changes_nothing_is_no_obstacle(settings: dict[str, Any]) -> None:
    assert shape_of(**settings) == shape_of()


def test_old_and_new_names_of_the_turns_are_one() -> None:
    old = shape_of(rope_theta=5e5, rope_scaling=YARN)

    assert shape_of(rope_parameters=YARN | {"rope_theta": 5e5}) == old
    assert (old.rope_theta, old.rope_scaling.factor) == (5e5, 4.0)


def test_stretched_turns_begin_at_the_context_where_nothing_else_is_said() -> None:
    said = {name: value for name, value in YARN.items() if not name.startswith("original")}

    assert shape_of(rope_scaling=said).rope_scaling.original_max_position_embeddings == 96


def test_what_is_left_out_has_the_default_of_its_type() -> None:
    few = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}

    def of(model_type: str) -> Any:
        return llama_shape(few | {"model_type": model_type}, "config.json", "some/model")

    assert (of("llama").num_kv_heads, of("llama").head_dim, of("llama").norm_epsilon) == (
        4,
        8,
        1e-6,
    )
    assert of("llama").begin_id == 256
    with pytest.raises(ConfigError, match="num_key_value_heads 8"):
        of("mistral")
    with pytest.raises(ConfigError, match="num_key_value_heads 32"):
        of("qwen2")
    assert shape_of("qwen3").head_dim == 128


def test_every_token_that_ends_a_text_is_kept() -> None:
    shape = shape_of(eos_token_id=[258, 5])

    assert shape.end_ids == (258, 5)
    assert shape.hugging_face["eos_token_id"] == [258, 5]
    assert shape_of(eos_token_id=None).end_ids == ()
