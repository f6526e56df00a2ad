"""
What a fine-tuning run is made of: the model's shape and the recipe. No torch: launchers read this.

The fields of `TrainConfig` are flags of launch/finetune.py; the text below each is its help. Two
kinds are told apart by `IDENTITY`: settings that change the result, which a run keeps for life,
and settings that may differ at every resume (machines, cadence, a later end).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from instruct_core.errors import ConfigError, CorruptFileError

LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class ModelConfig:
    """GPT-2's shape; `vocab_size` is the tokenizer's, without padding."""

    num_layers: int
    num_heads: int
    width: int
    max_seq_len: int = 1024
    vocab_size: int = 50257

    @property
    def num_parameters(self) -> int:
        """Trainable numbers; the output head shares the token embedding."""
        per_layer = 12 * self.width**2 + 13 * self.width
        embeddings = (self.vocab_size + self.max_seq_len) * self.width
        return embeddings + self.num_layers * per_layer + 2 * self.width


PRESETS = {
    "gpt2": ModelConfig(num_layers=12, num_heads=12, width=768),
    "gpt2-medium": ModelConfig(num_layers=24, num_heads=16, width=1024),
    "gpt2-large": ModelConfig(num_layers=36, num_heads=20, width=1280),
    "gpt2-xl": ModelConfig(num_layers=48, num_heads=25, width=1600),
    "small-demo": ModelConfig(num_layers=4, num_heads=4, width=256),
    "tiny": ModelConfig(num_layers=2, num_heads=2, width=32),
}

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of a run, resolved: what the job on every rank reads."""

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
    max_steps: int = 2000
    decay_steps: int = 2000
    seq_len: int = 1024
    micro_batch_size: int = 8
    tokens_per_step: int = 65536
    learning_rate: float = 2e-5
    min_learning_rate: float = 2e-6
    warmup_steps: int = 100
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip: float = 1.0
    dropout: float = 0.0
    loss_on: Literal["all", "response"] = "all"
    precision: Precision = "fp32"
    seed: int = 1337
    eval_every: int = 100
    save_every: int = 100
    save_every_minutes: float | None = None
    async_save: bool = True
    max_unsaved_minutes: float = 60.0
    keep_checkpoints: int = 3
    keep_every: int = 0
    compile: bool = False
    deterministic: bool = True
    record_samples: bool = False

    @property
    def global_batch_size(self) -> int:
        """Samples per step over all ranks."""
        return self.tokens_per_step // self.seq_len

    def grad_accum_steps(self, world_size: int) -> int:
        """
        Return how many micro-batches each rank takes per step.

        Raises:
            ConfigError: The step does not divide by ranks times micro-batch.
        """
        samples = world_size * self.micro_batch_size
        if self.tokens_per_step % self.seq_len or self.global_batch_size % samples:
            fitting = max(1, self.global_batch_size // samples) * samples * self.seq_len
            raise ConfigError(
                f"--tokens-per-step must be a multiple of ranks x --micro-batch-size x --seq-len = "
                f"{world_size} x {self.micro_batch_size} x {self.seq_len} = "
                f"{samples * self.seq_len}, got {self.tokens_per_step}. "
                f"Use --tokens-per-step {fitting}, or another --micro-batch-size or --gpus."
            )
        return self.global_batch_size // samples


# What decides the weights a run ends with. The shard set counts by its fingerprint, not its path.
IDENTITY = (
    "data_fingerprint", "model", "decay_steps", "seq_len", "tokens_per_step",
    "learning_rate", "min_learning_rate", "warmup_steps", "weight_decay", "beta1", "beta2",
    "epsilon", "clip", "dropout", "loss_on", "precision", "seed",
)  # fmt: skip


# How rows become samples; part of the identity, because `samples_seen` counts in it.
PACKING = "best fit, order drawn"


def identity_of(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that a run keeps for life."""
    return {name: getattr(config, name) for name in IDENTITY} | {"packing": PACKING}


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Return the config as JSON values."""
    return asdict(config)


def from_json(document: Any, where: str) -> TrainConfig:
    """
    Return the config of `to_json`.

    Raises:
        CorruptFileError: A key is unknown, missing, or of another type; ``where`` names the file.
    """
    import cattrs  # here: flags read this module, and --help must stay quick

    try:
        return cattrs.Converter(forbid_extra_keys=True).structure(document, TrainConfig)
    except Exception as error:  # cattrs raises groups of errors
        reasons = "; ".join(cattrs.transform_error(error))
        raise CorruptFileError(f"{where} is no run of this version: {reasons}.") from error


def describe(config: TrainConfig) -> str:
    """Return all settings as JSON lines, for the log."""
    return "\n".join(f"{f.name}: {json.dumps(getattr(config, f.name))}" for f in fields(config))
