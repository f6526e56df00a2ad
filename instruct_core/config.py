"""
What a fine-tuning run is made of: the model's shape, its places and its recipe. No torch: launchers
read this.

    config = TrainConfig("my-run", shards, checkpoints, runs, init, "gpt2", fingerprint, max_steps=400)
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from instruct_core.converter import structure
from instruct_core.errors import ConfigError, CorruptFileError
from instruct_core.llama_config import LLAMA_TYPES, LlamaConfig
from instruct_core.lora_settings import ALL, ALPHA_PER_RANK, Lora
from instruct_core.recipe import (
    IS_LATER,
    MICRO_BATCH_SIZE,
    LossOn,
    Precision,
    Recipe,
    Shard,
    Switch,
)
from instruct_core.shape import Shape

LAYER_NORM_EPSILON = 1e-5
GPT2_TOKENS = 50257
ACTIVATIONS_PER_LAYER = 24  # numbers of the model's width that a token keeps for the backward


@dataclass(frozen=True)
class ModelConfig:
    """GPT-2's shape; `vocab_size` is the tokenizer's, without padding. See Shape."""

    num_layers: int
    num_heads: int
    width: int
    max_seq_len: int = 1024
    vocab_size: int = GPT2_TOKENS
    trained_positions: int | None = field(default=None, compare=False)

    @property
    def model_type(self) -> str:
        """The family's name, as config.json has it."""
        return "gpt2"

    @property
    def num_kv_heads(self) -> int:
        """Every head has keys and values of its own."""
        return self.num_heads

    @property
    def head_dim(self) -> int:
        """Numbers of a head's query."""
        return self.width // self.num_heads

    @property
    def num_parameters(self) -> int:
        """Trainable numbers; the output head shares the token embedding."""
        per_layer = 12 * self.width**2 + 13 * self.width
        embeddings = (self.vocab_size + self.max_seq_len) * self.width
        return embeddings + self.num_layers * per_layer + 2 * self.width

    @property
    def product_weights(self) -> int:
        """All but the positions, which are added."""
        return self.num_parameters - self.max_seq_len * self.width

    @property
    def kept_numbers(self) -> int:
        """About how many numbers all layers keep of a token for the backward."""
        return ACTIVATIONS_PER_LAYER * self.num_layers * self.width

    @property
    def sizes(self) -> tuple[int, ...]:
        """All that must be above zero."""
        return self.num_layers, self.num_heads, self.width, self.max_seq_len, self.vocab_size

    @property
    def end_ids(self) -> tuple[int, ...]:
        """`<|endoftext|>`, the last of its own tokens; another tokenizer's say it themselves."""
        return (GPT2_TOKENS - 1,) if self.vocab_size == GPT2_TOKENS else ()

    @property
    def hugging_face(self) -> dict[str, Any]:
        """The content of config.json."""
        end = self.end_ids[0] if self.end_ids else None
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "n_positions": self.max_seq_len,
            "n_embd": self.width,
            "n_layer": self.num_layers,
            "n_head": self.num_heads,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": LAYER_NORM_EPSILON,
            "bos_token_id": end,
            "eos_token_id": end,
            "tie_word_embeddings": True,
        }


PRESETS: dict[str, Shape] = {
    "gpt2": ModelConfig(num_layers=12, num_heads=12, width=768),
    "gpt2-medium": ModelConfig(num_layers=24, num_heads=16, width=1024),
    "gpt2-large": ModelConfig(num_layers=36, num_heads=20, width=1280),
    "gpt2-xl": ModelConfig(num_layers=48, num_heads=25, width=1600),
    "small-demo": ModelConfig(num_layers=4, num_heads=4, width=256),
    "tiny": ModelConfig(num_layers=2, num_heads=2, width=32),
    "tiny-llama": LlamaConfig(
        num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, width=32, mlp_width=64,
        max_seq_len=1024, vocab_size=GPT2_TOKENS, end_ids=(GPT2_TOKENS - 1,), has_tied_head=True,
    ),
}  # fmt: skip
# The class of every family's shape; where nothing is said, a manifest's model is a GPT-2.
SHAPES: dict[str, type[Any]] = {"gpt2": ModelConfig, **dict.fromkeys(LLAMA_TYPES, LlamaConfig)}


def shape_from(document: Any, problem: str) -> Shape:
    """
    Return the shape that a manifest, or another process, tells as JSON.

    Args:
        document: Its fields; `model_type` is left out for a GPT-2.
        problem: Which file is what: the message begins with it.

    Raises:
        CorruptFileError: It is of no family of this version, or has other fields than its class.
    """
    kind = document.get("model_type", "gpt2") if isinstance(document, dict) else "gpt2"
    if kind not in SHAPES:
        raise CorruptFileError(f"{problem}: model_type {str(kind)[:50]} is not known to it.")
    shape: Shape = structure(document, SHAPES[kind], problem, strict=True)
    return shape


@dataclass(frozen=True)
class TrainConfig(Recipe):
    """A run as the job on every rank reads it: its recipe with nothing left open, and its places."""

    run: str
    """Name of the run; the same name again resumes it."""
    shards: str
    """Path or URL of the shard set."""
    checkpoints: str
    """Path or URL where runs keep their checkpoints."""
    runs: str
    """Path or URL where runs keep TensorBoard events and their ledger."""
    init: str
    """"random", a Hugging Face folder, a step folder, or a .pt file."""
    model: str
    """Preset of the model's shape."""
    data_fingerprint: str
    """Fingerprint of the shard set."""
    decay_steps: int = field(default=2000, kw_only=True)
    learning_rate: float = field(default=2e-5, kw_only=True)
    micro_batch_size: int = field(default=MICRO_BATCH_SIZE, kw_only=True)
    min_learning_rate: float = field(default=2e-6, kw_only=True)
    loss_on: LossOn = field(default="all", kw_only=True)
    precision: Precision = field(default="fp32", kw_only=True)
    activation_checkpointing: Switch = field(default="off", kw_only=True, metadata=IS_LATER)
    shard: Shard = field(default="none", kw_only=True, metadata=IS_LATER)
    init_step: int | None = field(default=None, kw_only=True, metadata=IS_LATER)
    """Step of another run that `init` is, if it was named as one."""
    init_xxh3: str = field(default="", kw_only=True, metadata=IS_LATER)
    """Hash of the weights in `init`, where the run is held to them."""
    keep_optimizer: bool = field(default=False, kw_only=True, metadata=IS_LATER)
    """Begin with the moments of that step too."""

    @property
    def adapter(self) -> Lora | None:
        """How the model is adapted; None where all its weights are trained."""
        if self.lora is None:
            return None
        alpha = self.lora_alpha or ALPHA_PER_RANK * self.lora
        return Lora(self.lora, alpha, self.lora_targets or ALL)

    @property
    def global_batch_size(self) -> int:
        """Samples per step over all ranks."""
        return self.tokens_per_step // self.seq_len

    def is_in_parts(self, world_size: int) -> bool:
        """Return True if every rank has a part of each tensor."""
        return self.shard == "full" and world_size > 1

    def may_be_in_parts(self, world_size: int) -> bool:
        """Return True if `--shard full` would share the model out."""
        return world_size > 1 and not self.compile

    def grad_accum_steps(self, world_size: int) -> int:
        """
        Return how many micro-batches a rank takes per step, at most.

        Raises:
            ConfigError: The step is not of whole sequences, or has fewer than there are ranks.
        """
        tokens, sequences = self.tokens_per_step, self.global_batch_size
        if tokens % self.seq_len:
            raise ConfigError(
                f"--tokens-per-step must be a multiple of --seq-len = {self.seq_len}, got {tokens}."
            )
        if sequences < world_size:
            raise ConfigError(
                f"There must be at most {sequences} ranks, one for each sequence of a step "
                f"(--tokens-per-step {tokens} / --seq-len {self.seq_len}), got {world_size}."
            )
        return math.ceil(sequences / (world_size * self.micro_batch_size))


# How rows become samples; part of the identity, because `samples_seen` counts in it.
PACKING = "best fit, order of its own"


def identity_of(config: TrainConfig) -> dict[str, Any]:
    """Return what a run keeps for life; the shard set counts by its fingerprint, not its path."""
    model = {"data_fingerprint": config.data_fingerprint, "model": config.model}
    beginning = {
        name: getattr(config, name) for name in ("init_step", "init_xxh3", "keep_optimizer")
    }
    used = {name: value for name, value in beginning.items() if value}
    return model | config.identity | {"packing": PACKING} | used


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Return the config as JSON values, its places first; later settings where they are used."""
    values = asdict(config)
    recipe = {name: values.pop(name) for name in config.values}
    later = {each.name: each.default for each in fields(config) if "is_later" in each.metadata}
    return {n: v for n, v in (values | recipe).items() if n not in later or v != later[n]}


def from_json(document: Any, where: str) -> TrainConfig:
    """
    Return the config of `to_json`.

    Raises:
        CorruptFileError: A key is unknown, missing, or of another type; ``where`` names the file.
    """
    return structure(document, TrainConfig, f"{where} is no run of this version", strict=True)


def describe(config: TrainConfig) -> str:
    """Return the settings that are not the defaults, on one line for the log: run.json has all."""
    defaults = {setting.name: setting.default for setting in fields(config)}
    own = {name: value for name, value in to_json(config).items() if value != defaults[name]}
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in own.items())
