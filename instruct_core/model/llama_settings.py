"""
What a config.json says of a model of the Llama family, and whether our Llama computes the same.

    shape = llama_shape(said, "path/to/SmolLM2-135M")

Every name in it is known: it is a part of the shape, or has a value that is followed, or changes no
score. Anything else is refused by its name, value and place, because nobody can tell what it would
change. What is left out has the default of transformers for that type of model.

Sources: transformers' configuration_llama.py, configuration_mistral.py, configuration_qwen2.py,
configuration_qwen3.py (names and defaults), modeling_rope_utils.py (scalings), configuration_utils.py and
generation/configuration_utils.py (what any config may say).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from instruct_core.llama_config import LlamaConfig, RopeScaling
from instruct_core.model.settings import Settings
from instruct_core.shape import TRAINED

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
PART_OF_THE_SHAPE = {
    *SIZES, "model_type", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps",
    "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings", "attention_bias", "mlp_bias",
    "bos_token_id", "eos_token_id", "pad_token_id", "sliding_window", "use_sliding_window",
    "max_window_layers", "layer_types", TRAINED,
}  # fmt: skip
# What transformers takes where nothing is said; a type that is not named takes the first.
DEFAULTS: dict[str, dict[str, Any]] = {
    "max_position_embeddings": {"": 32768, "llama": 2048, "mistral": 131072},
    "num_key_value_heads": {"": 32, "llama": None, "mistral": 8},
    "head_dim": {"": None, "qwen3": 128},
    "sliding_window": {"": 4096, "llama": None},
    "bos_token_id": {"": None, "llama": 1, "mistral": 1},
    "eos_token_id": {"": None, "llama": 2, "mistral": 2},
}
# Any other value is another model.
FOLLOWED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "is_causal": (True,),
    "partial_rotary_factor": (1, 1.0),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "use_qk_norm": (False,),
    "qk_layernorm": (False,),
    "chunk_size_feed_forward": (0,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "pruned_heads": ({},),
    "quantization_config": ({},),
    "auto_map": ({},),  # code of its own
    "per_layer_config": ({},),
}
# They are about training, generation, other programs, or the file itself.
HARMLESS = {
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled",
    "_name_or_path", "architectures", "attention_dropout", "bad_words_ids", "begin_suppress_tokens",
    "custom_pipelines", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
    "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "id2label",
    "initializer_range", "is_decoder", "is_llama_config", "label2id", "length_penalty", "max_length",
    "min_length", "name_or_path", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels",
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "prefix",
    "pretraining_tp", "problem_type", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype",
    "torchscript", "transformers.js_config", "transformers_version", "typical_p", "unsloth_fixed",
    "unsloth_version", "use_bfloat16", "use_cache",
}  # fmt: skip
# The numbers that a scaling must have, and those that it may have beside.
SCALINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ()),
    "yarn": (
        ("factor",), ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    ),
}  # fmt: skip
CONTEXT, WITH_CONTEXT = "original_max_position_embeddings", ("llama3", "yarn")
ROPE_NAMES = {field.name for field in fields(RopeScaling)} | {"rope_theta", "type"}
WINDOWS = {"full_attention", "sliding_attention"}


def llama_shape(values: Mapping[str, Any], place: str, init: str) -> LlamaConfig:
    """
    Return the shape that a config.json tells.

    Args:
        values: What it says.
        place: Where, in words.
        init: The model, for messages.

    Raises:
        ConfigError: It says something that is not computed, or leaves a size out; names it.
    """
    said = Settings(values, place, init, str(values["model_type"]), DEFAULTS)
    _refuse_unknown(said)
    sizes = {name: said.count(name) for name in SIZES}
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    kv_heads = said.count("num_key_value_heads", if_null=heads)
    if heads % kv_heads:
        raise said.refusal("num_key_value_heads", f"{heads} heads cannot share them evenly")
    head_dim = said.count("head_dim", if_null=max(1, width // heads))
    if head_dim % 2:
        raise said.refusal("head_dim", f"a turn takes pairs, and a head has {head_dim} numbers")
    context = said.count("max_position_embeddings")
    trained = said.count(TRAINED, if_null=context)
    if trained > context:
        raise said.refusal(TRAINED, f"there are {context} positions")
    _refuse_window(said, context, sizes["num_hidden_layers"])
    theta, scaling = _rope(said, context)
    return LlamaConfig(
        model_type=said.model_type,
        num_layers=sizes["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        width=width,
        mlp_width=sizes["intermediate_size"],
        max_seq_len=context,
        vocab_size=sizes["vocab_size"],
        end_ids=_ends(said, sizes["vocab_size"]),
        begin_id=_token(said, "bos_token_id"),
        pad_id=_token(said, "pad_token_id"),
        norm_epsilon=said.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        has_tied_head=said.switch("tie_word_embeddings"),
        attention_bias=_has_bias(said, "attention_bias", ("llama", "qwen3")),
        mlp_bias=_has_bias(said, "mlp_bias", ("llama",)),
        trained_positions=trained if trained < context else None,
    )


def _refuse_unknown(said: Settings) -> None:
    for name, value in sorted(said.values.items()):
        if name in PART_OF_THE_SHAPE or name in HARMLESS or value is None:
            continue
        wanted = FOLLOWED.get(name)
        if wanted is None:
            raise said.refusal(name, "nobody here knows what that changes")
        if not any(value == one and type(value) is type(one) for one in wanted):
            raise said.refusal(name, f"only {wanted[0]} is followed")


def _refuse_window(said: Settings, context: int, num_layers: int) -> None:
    """Refuse attention that does not reach over the whole context."""
    kinds = said.values.get("layer_types")
    if kinds is not None and not (
        isinstance(kinds, list) and len(kinds) == num_layers and set(map(str, kinds)) <= WINDOWS
    ):
        raise said.refusal("layer_types", "only full_attention in every layer is followed")
    match said.model_type:
        case "llama":
            slides = False
        case "mistral":
            slides = True
        case _ if not said.switch("use_sliding_window"):
            slides = False
        case _:
            first = said.count("max_window_layers", if_null=28, least=0)
            slides = first < num_layers if kinds is None else "sliding_attention" in kinds
    if kinds is not None and "sliding_attention" in kinds and not slides:
        raise said.refusal("layer_types", "only full_attention in every layer is followed")
    if slides and said.count("sliding_window", if_null=context) < context:
        why = f"only null, or at least the {context} of max_position_embeddings, is followed"
        raise said.refusal("sliding_window", why)


def _rope(said: Settings, context: int) -> tuple[float, RopeScaling]:
    """Return the base of the turns, and how they are stretched; the object has an old and a new name."""
    rope = said.inside("rope_scaling" if said.values.get("rope_scaling") else "rope_parameters")
    theta = rope.number("rope_theta", said.number("rope_theta", 10000.0))
    kind = str(rope.values.get("rope_type", rope.values.get("type", "default")))
    if kind not in SCALINGS:
        name = "rope_type" if "rope_type" in rope.values else "type"
        raise rope.refusal(name, f"only {', '.join(SCALINGS)} are followed")
    if rope.values.get("partial_rotary_factor", 1) != 1:
        raise rope.refusal("partial_rotary_factor", "only 1 is followed")
    for name in sorted(rope.values.keys() - ROPE_NAMES - {"partial_rotary_factor"}):
        raise rope.refusal(name, "nobody here knows what that changes")
    needed, may = SCALINGS[kind]
    numbers: dict[str, Any] = {name: rope.number(name) for name in needed}
    numbers |= {name: rope.number(name) for name in may if name in rope.values}
    if kind in WITH_CONTEXT:
        numbers[CONTEXT] = int(rope.number(CONTEXT, context))
    if kind == "yarn" and "truncate" in rope.values:
        numbers["truncate"] = rope.switch("truncate")
    if kind == "llama3" and numbers["high_freq_factor"] <= numbers["low_freq_factor"]:
        raise rope.refusal("high_freq_factor", "it must be above low_freq_factor")
    return theta, RopeScaling(rope_type=kind, **numbers)


def _has_bias(said: Settings, name: str, types: tuple[str, ...]) -> bool:
    """Return whether there are such biases, which some types never have."""
    if not said.switch(name) or (name, said.model_type) == ("attention_bias", "qwen2"):
        return False  # a qwen2 has its own, whatever is said
    if said.model_type not in types:
        raise said.refusal(name, f"only false is followed in a {said.model_type}")
    return True


def _ends(said: Settings, vocab_size: int) -> tuple[int, ...]:
    value = said.get("eos_token_id")
    ends = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(end) is int and 0 <= end < vocab_size for end in ends):
        raise said.refusal("eos_token_id", f"it must be a token of the {vocab_size} there are")
    return tuple(ends)


def _token(said: Settings, name: str) -> int | None:
    """Return a token's id; some configs say -1 for none, or one that only the tokenizer has."""
    value = said.get(name)
    return value if type(value) is int and value >= 0 else None
