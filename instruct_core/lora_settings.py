"""
Low-rank adapters without torch: how large they are, on what they stand, and PEFT's file that says so.

    lora = Lora(rank=8, alpha=16.0, targets="c_attn")
    chosen("c_attn,mlp.c_proj", names)      # the projections that get an adapter
    adapter_config(lora, names, is_turned=True, base_place="path/to/gpt2")

Sources: Hu et al. 2021 (arXiv 2106.09685); PEFT's lora/config.py (names and defaults of
adapter_config.json) and utils/constants.py (which projections are usual).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from instruct_core.errors import ConfigError

ALL = "all"
USUAL = ("c_attn", "q_proj", "v_proj")  # what PEFT adapts of GPT-2, Llama, Mistral and Qwen
ALPHA_PER_RANK = 2.0
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every name in PEFT's file

# Of PEFT's settings those that change nothing in what a finished adapter computes.
HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "r", "revision", "target_modules", "task_type",
}  # fmt: skip
FOLLOWED = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal")}


@dataclass(frozen=True)
class Lora:
    """How a model is adapted."""

    rank: int
    alpha: float
    targets: str  # names of projections with commas between, or "all"

    @property
    def scale(self) -> float:
        """What the product of both factors is multiplied with."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class Base:
    """The frozen weights that adapters stand on."""

    place: str  # as `--init` has it
    xxh3: str  # of the weights in float32; "" where nobody has noted it
    model: str = ""  # preset, seed and vocabulary of random weights
    seed: int = 0
    vocab_size: int = 0


def kinds_of(names: Iterable[str]) -> list[str]:
    """Return the last part of each name once: what a target is named by."""
    return sorted({name.rpartition(".")[2] for name in names})


def usual_targets(names: Iterable[str]) -> str:
    """Return what is adapted where nothing was typed: what PEFT would."""
    kinds = kinds_of(names)
    return ",".join(name for name in USUAL if name in kinds) or ALL


def chosen(targets: str, names: Iterable[str]) -> list[str]:
    """
    Return the projections that are meant, by name.

    Args:
        targets: "all", or the ends of names with commas between, as in "c_attn,mlp.c_proj".
        names: Of all projections.

    Raises:
        ConfigError: A word names none; says which there are.
    """
    there = sorted(names)
    if targets == ALL:
        return there
    words = targets.split(",")
    for word in words:
        if not any(_is_named(name, word) for name in there):
            raise ConfigError(
                f"--lora-targets must be all, or of {', '.join(kinds_of(there))} with commas between, "
                f"got {word or 'nothing'}."
            )
    return [name for name in there if any(_is_named(name, word) for word in words)]


def _is_named(name: str, word: str) -> bool:
    return f".{name}".endswith(f".{word}")


def adapter_config(
    lora: Lora, names: Iterable[str], is_turned: bool, base_place: str | None, dropout: float = 0.0
) -> dict[str, Any]:
    """
    Return the content of adapter_config.json.

    Args:
        lora: How the model is adapted.
        names: Of the projections that are.
        is_turned: Their weights lie as (inputs, outputs).
        base_place: Where the base is; None for random weights.
        dropout: On what enters an adapter while training.
    """
    targets = kinds_of(names) if lora.targets == ALL else lora.targets.split(",")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_place,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": dropout,
        "target_modules": targets,
        "fan_in_fan_out": is_turned,
        "bias": "none",
        "inference_mode": True,
    }


def lora_said(document: Mapping[str, Any], where: str) -> Lora:
    """
    Return what an adapter_config.json says.

    Args:
        document: Its content.
        where: Its address, for messages.

    Raises:
        ConfigError: It is of another kind of adapter; names the setting.
    """
    kind, rank, alpha = (document.get(name) for name in ("peft_type", "r", "lora_alpha"))
    if kind != "LORA":
        raise ConfigError(f"Adapter {where} has peft_type {kind}, and only LORA is followed.")
    for name, value in sorted(document.items()):
        fits = value in FOLLOWED[name] if name in FOLLOWED else name in HARMLESS or not value
        if not fits:
            raise ConfigError(
                f"Adapter {where} has {name} {value}, which is not followed. Merge it with PEFT "
                "(merge_and_unload) and give the merged folder."
            )
    numbers = (value for value in (rank, alpha) if isinstance(value, int | float) and value > 0)
    if len(list(numbers)) != 2 or not isinstance(rank, int):
        raise ConfigError(f"Adapter {where} must have numbers above 0 as r and lora_alpha.")
    targets = document.get("target_modules")
    words = [str(word) for word in targets] if isinstance(targets, list) else [str(targets)]
    return Lora(rank, float(alpha or 0), ",".join(words))
