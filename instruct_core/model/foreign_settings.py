"""
What somebody else's config says of a model, and whether our GPT-2 computes the same.

    refuse_relatives(said, "path/to/gpt2")
    heads = heads_said(said, num_layers=12, width=768, init="path/to/gpt2")

A setting that changes the result and that our GPT-2 does not follow is refused by its name. The
number of heads stands in no tensor's shape: it is read, or refused.

Sources: transformers' configuration_gpt2.py (names and defaults) and modeling_gpt2.py (what they
do); nanoGPT's train.py (its checkpoint: `model_args` is the model, `config` the flags of training,
stale where the model came from elsewhere).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from instruct_core.config import LAYER_NORM_EPSILON, PRESETS
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT_ID
from instruct_core.errors import ConfigError
from instruct_core.shape import TRAINED

logger = logging.getLogger(__name__)

# What our GPT-2 does: any other value is another model.
FOLLOWED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (LAYER_NORM_EPSILON,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "is_causal": (True,),
    "tie_word_embeddings": (True,),
    "eos_token_id": (END_OF_TEXT_ID, [END_OF_TEXT_ID]),
    "position_embedding_type": ("absolute",),
    "pruned_heads": ({},),
    "quantization_config": ({},),
    "auto_map": ({},),  # code of its own
}
# Switches that configs of plain GPT-2s have on; any other that is on belongs to another model.
HARMLESS_SWITCHES = {
    "bias", "do_sample", "early_stopping", "flash", "flash_attention", "flash_attn",
    "gradient_checkpointing", "is_decoder", "output_attentions",
    "output_hidden_states", "output_past", "output_scores", "predict_special_tokens",
    "remove_invalid_values", "return_dict", "return_dict_in_generate",
    "summary_proj_to_labels", "summary_use_proj", "torchscript", "use_bfloat16", "use_cache",
    "use_return_dict",
}  # fmt: skip
HEADS = ("n_head", "num_attention_heads", "num_heads", "n_heads")
LAYERS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers")
WIDTH = ("n_embd", "hidden_size", "width", "d_model")
POSITIONS = ("n_positions", "max_position_embeddings", "block_size", "max_seq_len")


class Said(NamedTuple):
    """Settings that lie beside weights."""

    place: str  # where, in words
    values: Mapping[str, Any]
    is_of_model: bool  # they describe the model itself, not a training that may have had another


def refuse_relatives(said: Sequence[Said], init: str) -> None:
    """
    Refuse settings that make another model of the same tensors.

    Raises:
        ConfigError: Names the setting, its value and where it stands.
    """
    for place, values, is_of_model in said:
        for name, value in sorted(values.items()):
            if name == "model_type" and not is_of_model:  # trainings have words of their own for it
                continue
            if name in FOLLOWED:
                fits = value is None or any(_same(value, wanted) for wanted in FOLLOWED[name])
            else:
                fits = not is_of_model or value is not True or name in HARMLESS_SWITCHES
            if not fits:
                wanted = FOLLOWED.get(name, (False,))[0]
                raise ConfigError(
                    f"Model {init} is no plain GPT-2: {place} has {name} {value}, and only {wanted} is "
                    "followed. Give another model."
                )


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, float):
        return isinstance(value, int | float) and abs(value - wanted) <= 1e-6 * wanted
    return bool(value == wanted and isinstance(value, bool) == isinstance(wanted, bool))


def heads_said(
    said: Sequence[Said], num_layers: int, width: int, num_positions: int, init: str
) -> int:
    """
    Return the number of heads, after comparing what is said of the shape with the weights' own.

    Where nothing says it, a published shape tells, with a warning.

    Raises:
        ConfigError: Two places differ, a place describes other weights, or nothing tells.
    """
    heads: list[tuple[int, str]] = []
    for place in sorted(said, key=lambda place: not place.is_of_model):
        found = list(_heads_in(place))
        if place.is_of_model:
            _refuse_other_shape(place, num_layers, width, num_positions, init)
        elif heads and any(other.is_of_model for other in said):
            break  # the model's own word is there: a training's may be stale
        elif found:
            _refuse_other_shape(place, num_layers, width, None, init)
        heads += found
    if len({number for number, _ in heads}) > 1:
        listed = ", ".join(f"{where} says {number}" for number, where in heads)
        raise ConfigError(f"Model {init} must have one number of heads: {listed}.")
    return heads[0][0] if heads else _heads_guessed(num_layers, width, init)


def positions_trained(said: Sequence[Said], num_positions: int, init: str) -> int | None:
    """
    Return how many positions training has reached, where a config of ours says it; None for all.

    Raises:
        ConfigError: That is no number of the positions that there are.
    """
    for place, values, is_of_model in said:
        trained = values.get(TRAINED) if is_of_model else None
        if trained is None or trained == num_positions:
            continue
        if type(trained) is not int or not 0 < trained < num_positions:
            raise ConfigError(
                f"Model {init} must have been trained on 1 to {num_positions} positions, and {place} has "
                f"{TRAINED} {str(trained)[:80]}. Leave it out if all were."
            )
        return trained
    return None


def _heads_in(said: Said) -> Iterator[tuple[int, str]]:
    nested = [value for _, value in sorted(said.values.items()) if isinstance(value, dict)]
    for fields in (said.values, *nested):
        for name in HEADS:
            number = fields.get(name)
            if isinstance(number, int) and number > 0:
                yield number, f"{name} of {said.place}"


def _refuse_other_shape(
    said: Said, num_layers: int, width: int, num_positions: int | None, init: str
) -> None:
    own = ((LAYERS, num_layers), (WIDTH, width), (POSITIONS, num_positions))
    for names, number in own:
        for name in names:
            value = said.values.get(name)
            if number is not None and isinstance(value, int) and value != number:
                raise ConfigError(
                    f"Model {init} must be what {said.place} says: {name} is {value}, and the weights "
                    f"have {number}."
                )


def _heads_guessed(num_layers: int, width: int, init: str) -> int:
    for name, shape in PRESETS.items():
        if shape.model_type == "gpt2" and (shape.num_layers, shape.width) == (num_layers, width):
            logger.warning(
                "Model %s does not say how many heads it has: %d heads guessed from %d layers of width "
                "%d, as %s has.", init, shape.num_heads, num_layers, width, name,
            )  # fmt: skip
            return shape.num_heads
    raise ConfigError(
        f"Model {init} does not say how many heads it has, and its {num_layers} layers of width {width} "
        "are no published GPT-2's. Save it again with {'model': ..., 'config': {'n_head': N}}, or as a "
        "Hugging Face folder."
    )
