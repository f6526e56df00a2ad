"""
How a model is trained: every hyperparameter once, with its default, its help and its rule. No torch.

    recipe = Recipe(max_steps=400, learning_rate=1e-3)
    recipe.check()
    recipe.identity              # the settings that a run keeps for life

The fields are flags of launch/finetune.py; the text below each is its help. Some of them can be left
out, and are chosen when the machine is known: `TrainConfig` is a recipe in which all have a value.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, NamedTuple

from instruct_core.errors import ConfigError

RARE = "rare"  # Annotated[float, RARE]: left out of --help, shown by --help-all
LEARNING_RATE, LORA_LEARNING_RATE = 2e-5, 2e-4  # where none was typed
MICRO_BATCH_SIZE = 8  # where the memory suffices and the ranks can share a step

# Settings that came later are written only where they are used: a run without them stays what it was.
IS_LATER = {"is_later": True}

Precision = Literal["auto", "fp32", "bf16", "fp16"]
LossOn = Literal["all", "response"]
Switch = Literal["auto", "on", "off"]
Shard = Literal["auto", "none", "full"]
Kept = Literal["fp32", "bf16", "fp16"]  # numbers of a model's weights while it answers


class Rule(NamedTuple):
    """Which values of a setting make sense anywhere; None stands for a default chosen later."""

    words: str
    holds: Callable[[Any], bool]


AT_LEAST_ONE = Rule("at least 1", lambda value: value >= 1)
A_RATE = Rule("more than 0 and at most 1 (2e-5 is 0.00002)", lambda value: 0 < value <= 1)
AT_LEAST_ZERO = Rule("at least 0", lambda value: 0 <= value < math.inf)
MORE_THAN_ZERO = Rule("more than 0", lambda value: 0 < value < math.inf)
A_SHARE = Rule("from 0 up to but not including 1", lambda value: 0 <= value < 1)
TWO_OR_MORE = Rule("at least 2", lambda value: value >= 2)
A_SEED = Rule("at least 0 and less than 2**63", lambda value: 0 <= value < 2**63)
NAMES = Rule("names with commas between", lambda value: bool(value.strip()) and " " not in value)
ANY = Rule("", lambda value: True)


def _decides(default: Any, rule: Rule = ANY) -> Any:
    """Declare a setting that decides the weights a run ends with: the run keeps it for life."""
    return field(default=default, metadata={"rule": rule, "is_identity": True})


def _decides_where_used(rule: Rule) -> Any:
    """Declare such a setting that came later: None leaves it out, and the run is as if it were not."""
    return field(default=None, metadata={"rule": rule, "is_identity": True, **IS_LATER})


def _may_change(default: Any, rule: Rule = ANY) -> Any:
    """Declare a setting that may differ at every resume: machines, cadence, a later end."""
    return field(default=default, metadata={"rule": rule, "is_identity": False})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained."""

    max_steps: int = _may_change(2000, AT_LEAST_ONE)
    """Optimizer steps; a finished run goes on when this grows."""
    decay_steps: Annotated[int | None, RARE] = _decides(None, AT_LEAST_ONE)
    """Step at which the cosine ends (default: --max-steps of the first launch)."""
    seq_len: int = _decides(1024, TWO_OR_MORE)
    """Tokens per packed sequence."""
    micro_batch_size: int | None = _may_change(None, AT_LEAST_ONE)
    """Sequences per rank and forward, at most (default: 8, or what fits the memory and the ranks)."""
    tokens_per_step: int = _decides(65536, AT_LEAST_ONE)
    """Tokens per optimizer step over all ranks, in whole sequences; what each takes follows from it."""
    learning_rate: float | None = _decides(None, A_RATE)
    """Peak learning rate, reached after the warmup (default: 2e-5, with --lora 2e-4)."""
    min_learning_rate: float | None = _decides(None, AT_LEAST_ZERO)
    """Where the cosine ends (default: a tenth of the peak)."""
    warmup_steps: int = _decides(100, AT_LEAST_ZERO)
    """Steps over which the learning rate rises from zero."""
    weight_decay: Annotated[float, RARE] = _decides(0.01, AT_LEAST_ZERO)
    """Of matrices."""
    beta1: Annotated[float, RARE] = _decides(0.9, A_SHARE)
    """AdamW."""
    beta2: Annotated[float, RARE] = _decides(0.95, A_SHARE)
    """AdamW."""
    epsilon: Annotated[float, RARE] = _decides(1e-8, MORE_THAN_ZERO)
    """AdamW."""
    clip: Annotated[float, RARE] = _decides(1.0, MORE_THAN_ZERO)
    """Largest norm of the gradient."""
    dropout: float = _decides(0.0, A_SHARE)
    """Probability of dropping an activation, 0..1."""
    lora: int | None = _decides_where_used(AT_LEAST_ONE)
    """Train adapters of this rank beside frozen weights (default: all weights are trained)."""
    lora_alpha: float | None = _decides_where_used(MORE_THAN_ZERO)
    """What an adapter adds is multiplied with this, divided by its rank (default: twice the rank)."""
    lora_targets: str | None = _decides_where_used(NAMES)
    """Projections that get an adapter: all, or names with commas between (default: c_attn of GPT-2,
    q_proj,v_proj of a Llama)."""
    loss_on: Literal["auto", "all", "response"] = _decides("auto")
    """Learn all tokens, or only those of the response (auto: response, where the base has a chat
    template; else all)."""
    precision: Precision = _decides("auto")  # noqa: RUF009  a field, as all others here
    """Of matrix products (auto: bf16 on GPUs that have it, else fp32); weights are always fp32. fp16 is
    for GPUs without bf16: the loss is scaled, and a step that overflows is left out."""
    seed: int = _decides(1337, A_SEED)
    """Of weights, order and dropout."""
    eval_every: int = _may_change(100, AT_LEAST_ONE)
    """Steps between evaluations on the whole validation split."""
    save_every: int = _may_change(100, AT_LEAST_ONE)
    """Steps between checkpoints; a run killed without warning loses at most so many."""
    save_every_minutes: float | None = _may_change(None, MORE_THAN_ZERO)
    """Save as well whenever so many minutes have gone since the last save began."""
    async_save: bool = _may_change(True)
    """Train on while a checkpoint is written; costs host memory for a copy of the state."""
    max_unsaved_minutes: Annotated[float, RARE] = _may_change(60.0, MORE_THAN_ZERO)
    """While saves fail the run goes on, and ends without a good checkpoint for so many minutes."""
    keep_checkpoints: int = _may_change(3, AT_LEAST_ONE)
    """Newest checkpoints that remain, beside the best one by validation loss."""
    keep_every: Annotated[int, RARE] = _may_change(0, AT_LEAST_ZERO)
    """Checkpoints of steps divisible by this stay for good (0: none do)."""
    compile: bool = _may_change(False)
    """Compile the model with torch.compile: slower to start, faster to run."""
    activation_checkpointing: Switch = _may_change("auto")  # noqa: RUF009  a field, as all others here
    """Keep of each layer only what enters it, and compute the layer again in the backward: less memory,
    and a step takes about a third longer (auto: on GPUs, where not one sequence fits without)."""
    shard: Shard = _may_change("auto")  # noqa: RUF009  a field, as all others here
    """Spread weights, gradients and moments over all ranks, so that a model may be larger than one GPU's
    memory; layers travel at every micro-batch (auto: full on GPUs, where not one sequence fits, or where
    the run has saved so)."""
    deterministic: Annotated[bool, RARE] = _may_change(True)
    """Use deterministic algorithms on GPUs, without which a resume is not exact to the bit."""
    record_samples: Annotated[bool, RARE] = _may_change(False)
    """Write which samples every rank reads at every step into the run's folder."""

    def check(self) -> None:
        """
        Refuse values that make sense nowhere.

        Raises:
            ConfigError: The first such setting; named as a flag.
        """
        check_rules(self)
        low, peak = self.min_learning_rate, self.peak_learning_rate
        if low is not None and low > peak:
            raise ConfigError(
                f"--min-learning-rate must be between 0 and --learning-rate {peak}, got {low}."
            )
        if self.weight_decay * peak >= 1:
            raise ConfigError(
                "--weight-decay times --learning-rate must be below 1, or a step takes all of a weight "
                f"away, got {self.weight_decay} times {peak}."
            )
        if self.compile and self.shard == "full":
            raise ConfigError(
                "--shard full takes no --compile: a layer that comes and goes is no graph. Give "
                "--shard auto, or --no-compile."
            )
        for name in ("lora_alpha", "lora_targets"):
            if self.lora is None and (value := getattr(self, name)) is not None:
                raise ConfigError(
                    f"{flag_of(name)} needs --lora RANK, got {value} without. Give it, or leave this out."
                )

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate, or the usual one of what is trained."""
        return self.learning_rate or (LORA_LEARNING_RATE if self.lora else LEARNING_RATE)

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that a run keeps for life."""
        kept = [setting for setting in fields(Recipe) if setting.metadata["is_identity"]]
        values = {setting.name: getattr(self, setting.name) for setting in kept}
        later = {setting.name for setting in kept if "is_later" in setting.metadata}
        return {n: value for n, value in values.items() if n not in later or value is not None}

    @property
    def values(self) -> dict[str, Any]:
        """All settings by name."""
        return {setting.name: getattr(self, setting.name) for setting in fields(Recipe)}


def check_rules(settings: Any) -> None:
    """
    Refuse the first value of a dataclass that breaks the rule of its field; raises ConfigError.

    A field without a rule takes any value, and None is a default that is chosen later.
    """
    for setting in fields(settings):
        value, rule = getattr(settings, setting.name), setting.metadata.get("rule", ANY)
        if value is not None and not rule.holds(value):
            is_endless = value == math.inf and rule.holds(sys.float_info.max)
            words = f"{rule.words}, and finite" if is_endless else rule.words
            raise ConfigError(f"{flag_of(setting.name)} must be {words}, got {value}.")


def flag_of(name: str) -> str:
    """Return a setting as it is typed: --max-steps."""
    return f"--{name.replace('_', '-')}"


def refuse_kept(kept: Kept, on_gpu: bool, has_bf16: bool, where: str) -> None:
    """
    Raise ConfigError where a model cannot answer with its weights kept so.

    Args:
        kept: What was typed, or is the default.
        on_gpu: Whether a GPU answers.
        has_bf16: Whether that computes in bf16.
        where: In words, what answers.
    """
    if kept != "bf16" or (on_gpu and has_bf16):
        return
    if on_gpu:
        raise ConfigError(
            f"--weights bf16 needs a GPU since Ampere, and {where} has an older one. Give "
            "--weights fp16, or leave it out."
        )
    raise ConfigError(
        f"--weights bf16 is for GPUs, and {where} has none. Give --weights fp16, which is what gains "
        "on a processor, or leave it out."
    )
