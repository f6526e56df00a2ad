"""
What a launch is about to do, before it does it: where, on which ranks, with which data, until when.

    for label, text in outlook(plan): ...

Source of the estimate: launch/training/fit.py.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from instruct_core.config import TrainConfig
from instruct_core.data.lost_tokens import check_learns, fate_of, learns_nothing, lost_of
from instruct_core.data.packing import Packing, load_packing, shares_of
from instruct_core.data.set_manifest import ShardManifest, load_manifest
from instruct_core.data.shards import ShardSet
from instruct_core.errors import ConfigError
from instruct_core.recipe import LEARNING_RATE, LORA_LEARNING_RATE
from instruct_core.shape import Shape
from instruct_core.storage.store import Store
from launch.console.lines import counted, perhaps
from launch.runs.run import Run, runs_in
from launch.training.fit import PROCESS_BYTES, duration, gigabytes, loaded_bytes, step_seconds
from launch.training.fork import other_batches
from launch.training.micro_batch import Ranks
from launch.training.submission import Submission

FINE_TUNING_RATE = 5e-5  # at most; from random weights some 1e-3 are usual
QUICK_LOOK_SECONDS = 10.0  # steps longer than this, and a person may want the demo instead


class Plan(NamedTuple):
    """A launch with nothing left open."""

    config: TrainConfig
    shape: Shape
    submission: Submission
    ranks: Ranks
    init: str  # in words
    why: str  # its micro-batch is not the recipe's own, or what spares memory; see Settings
    step: int  # that the run has reached
    is_new: bool  # there was no such run before
    adapters: int = 0  # numbers that are trained, if not all weights are
    has_template: bool = False  # the base brings a chat template


def outlook(plan: Plan) -> list[tuple[str, str]]:
    """
    Return the rows of a small table.

    Raises:
        ConfigError: There is no row to train on, or nothing in them to learn.
    """
    data, epochs = _data(plan)
    return [
        ("Run", _run(plan)),
        ("Where", plan.submission.where),
        ("Ranks", _ranks(plan)),
        *data,
        ("Loss", _loss(plan)),
        *_lora(plan),
        ("Time", _time(plan, epochs)),
        *(("Note", text) for text in _notes(plan)),
    ]


def _run(plan: Plan) -> str:
    name = plan.config.run
    if plan.is_new:
        others = [run.name for run in runs_in(plan.config.checkpoints)]
        # lr-1e-4 beside lr-1e-5 is a series, and no slip.
        others = [other for other in others if _letters(other) != _letters(name)]
        return f"{name}, a new run{'.' if (close := perhaps(name, others)) else ''}{close}"
    return f"{name}, goes on from step {plan.step}" if plan.step else f"{name}, has not saved yet"


def _letters(name: str) -> str:
    return re.sub(r"\d", "", name)


def _loss(plan: Plan) -> str:
    """Return what is learnt and how fast; of a new run also which of it are defaults, and why."""
    config = plan.config
    words = "all tokens" if config.loss_on == "all" else "responses"
    if plan.is_new and plan.has_template:
        why = ", as the base has a chat template" if config.loss_on == "response" else ""
        words += f"{why} (--loss-on all: questions too)" if why else ""
    elif plan.is_new and config.loss_on == "all":
        words += " (--loss-on response: answers alone)"
    if config.adapter is not None:  # whose row has the rate
        return f"on {words}"
    rate = config.learning_rate
    default = " (the default)" if plan.is_new and rate == LEARNING_RATE else ""
    return f"on {words}; at --learning-rate {rate:g}{default}"


def _lora(plan: Plan) -> list[tuple[str, str]]:
    """Return a row about adapters, if they are what is trained."""
    config, all_numbers = plan.config, plan.shape.num_parameters
    if config.adapter is None:
        return []
    rate = config.learning_rate
    default = " (the default with --lora)" if rate == LORA_LEARNING_RATE else ""
    text = (
        f"rank {config.lora}, alpha {config.lora_alpha:g}, beside {config.lora_targets}: "
        f"{plan.adapters:,} numbers are trained, {plan.adapters / all_numbers:.2%} of all, "
        f"at --learning-rate {rate:g}{default}; the base stays where it is, frozen in {config.precision}"
    )
    return [("LoRA", text)]


def _notes(plan: Plan) -> list[str]:
    """Return what will be as typed, and hardly as meant."""
    config, notes = plan.config, []
    if config.warmup_steps >= config.max_steps:
        notes.append(
            f"the last step is {config.max_steps}, and --warmup-steps {config.warmup_steps} are not over "
            f"by then: the learning rate never reaches its peak (--warmup-steps {config.max_steps // 10})"
        )
    if plan.is_new and config.init == "random" and config.learning_rate <= FINE_TUNING_RATE:
        notes.append(
            f"--learning-rate {config.learning_rate:g} is for weights that know a language; random ones "
            "hardly move with it: give --learning-rate 1e-3, or weights with --init"
        )
    if plan.is_new and config.init == "random" and config.seq_len < plan.shape.max_seq_len:
        notes.append(
            f"--seq-len {config.seq_len} trains {config.seq_len:,} of {plan.shape.max_seq_len:,} "
            "positions: chat, generate and evaluate give the model no longer texts"
        )
    if plan.is_new and config.lora and Run.of_step(config.init) is not None:
        notes.append(
            f"{config.init} is needed as long as the run, and its own run may remove it: export it and "
            "begin with the folder, or keep it there with --keep-every"
        )
    if plan.is_new and (others := other_batches(config)):
        notes.append(others)
    return [*notes, *_memory_of_a_resume(plan)]


def _memory_of_a_resume(plan: Plan) -> list[str]:
    """Return what is said where GPUs can begin, and not go on: each rank reads all of a step."""
    machine, number = plan.submission.machine, plan.ranks.per_node
    needed = number * (PROCESS_BYTES + loaded_bytes(plan.shape, plan.adapters))
    if not machine.num_gpus or machine.memory_bytes is None or needed < machine.memory_bytes:
        return []
    taken, there = gigabytes(needed, machine.memory_bytes)
    return [
        f"a run that comes back reads all of a step on each rank: {taken} of a node's memory for a "
        f"moment, and {there} are free on {machine.name}: give {machine.remedy}"
    ]


def _ranks(plan: Plan) -> str:
    config, machine, size = plan.config, plan.submission.machine, plan.ranks.world_size
    ranks = counted(size, "GPU" if machine.num_gpus else "CPU rank")
    if plan.ranks.nodes > 1:
        ranks += f" on {plan.ranks.nodes} nodes"
    if machine.num_gpus and not machine.has_bf16 and config.precision == "fp32":
        ranks += " (in fp32: bf16 needs compute capability 8.0; --precision fp16 does not)"
    if not machine.num_gpus:
        slow = "; fp16 is for GPUs, and slow on cores" if config.precision == "fp16" else ""
        ranks += f" (no GPU on {machine.name}: gloo{slow})"
    why = f", {plan.why}" if plan.why else ""
    return f"{ranks}; each takes {_share(config, size, why)}"


def _share(config: TrainConfig, world_size: int, why: str) -> str:
    """Return what a rank takes of a step, and what it means where some take more than others."""
    least, rest = divmod(config.global_batch_size, world_size)
    most = least + (rest > 0)
    count, size = config.grad_accum_steps(world_size), min(config.micro_batch_size, most)
    if not rest and least == count * size:
        return f"{count} micro-batch{'es' if count > 1 else ''} of {size} a step{why}"
    at_once = f"sequences a step, at most {size} at once{why}"
    if not rest:
        return f"{least} {at_once}"
    return f"{least} or {most} {at_once}; a step waits for those with {most}"


def _data(plan: Plan) -> tuple[list[tuple[str, str]], float | None]:
    """Return rows about the data, and how many epochs the run makes of it, where that is known."""
    config, store = plan.config, Store(plan.config.shards)
    model = f"{_model(plan)}, {plan.shape.num_parameters / 1e6:,.1f}M, from {plan.init}"
    if not store.exists("manifest.json"):
        return [("Data", f"{config.shards}, still being made; {model}")], None
    manifest = load_manifest(store)
    rows = ShardSet(store, "train", manifest)
    packing = load_packing(store, rows, "train", manifest.fingerprint, config.seq_len, config.seed)
    if not len(rows):
        raise ConfigError(f"Shards {config.shards} have no row to train on. Prepare more rows.")
    check_learns(rows, packing, config.loss_on)
    epochs = config.max_steps * config.global_batch_size / max(1, packing.num_sequences)
    data = (
        f"{counted(len(rows), 'row')} of {config.shards} in "
        f"{counted(packing.num_sequences, 'sequence')}, {packing.filled:.1%} filled; {model}"
    )
    mixture = _mixture(manifest, rows, packing, config)
    long = _long_rows(rows, packing) + _long_to_validate(store, manifest, config)
    return [("Data", data), *mixture, ("Long", long)], epochs


def _long_to_validate(store: Store, manifest: ShardManifest, config: TrainConfig) -> str:
    """Return what is said of rows to validate that are too long for any loss; "" where one is not."""
    rows = ShardSet(store, "val", manifest)
    packing = load_packing(store, rows, "val", manifest.fingerprint, config.seq_len, config.seed)
    if not len(rows) or not learns_nothing(rows, packing, config.loss_on):
        return ""
    return f"; every row to validate is {fate_of(rows)}: there is no validation loss"


def _mixture(
    manifest: ShardManifest, rows: ShardSet, packing: Packing, config: TrainConfig
) -> list[tuple[str, str]]:
    """Return a row about sources with weights: how often each is read."""
    if not rows.groups:
        return []
    read = config.max_steps * config.global_batch_size
    shares = shares_of(packing, rows.groups)
    total = sum(share.weight for share in shares)
    words = [
        f"{share.weight / total:.0%} {part.source} "
        f"({read * share.weight / total / max(1, share.sequences):,.1f} epochs)"
        for share, part in zip(shares, manifest.mixture or [], strict=True)
    ]
    return [("Mix", ", ".join(words))]


def _model(plan: Plan) -> str:
    shape = plan.shape
    if shape.model_type == "gpt2":
        return plan.config.model or "GPT-2"
    name = plan.config.model or shape.model_type
    return f"{name} of {counted(shape.num_layers, 'layer')} and {shape.max_seq_len:,} positions"


def _long_rows(rows: ShardSet, packing: Packing) -> str:
    """Return what becomes of rows that are longer than a sequence."""
    lost = lost_of(rows, packing)
    if not lost.num_rows:
        return (
            f"no row is longer than --seq-len {packing.seq_len}: each response is learnt with its "
            "question"
        )
    long = f"{counted(lost.num_rows, 'row')} longer than --seq-len {packing.seq_len}"
    if rows.long_rows == "cut":
        return (
            f"{long}, cut into pieces: {lost.alone:.1%} of all response tokens are learnt without their "
            "question"
        )
    if rows.long_rows == "drop":
        return f"{long}, left out, with {lost.unread:.1%} of all response tokens"
    silent = f"; of {lost.num_silent:,} the question alone is longer" if lost.num_silent else ""
    return (
        f"{long}, truncated: {lost.unread:.1%} of all response tokens are left out, and none is learnt "
        f"without its question{silent}"
    )


def _time(plan: Plan, epochs: float | None) -> str:
    config, left = plan.config, plan.config.max_steps - plan.step
    steps = (
        f"{left:,} of {counted(config.max_steps, 'step')} to go"
        if plan.step
        else counted(left, "step")
    )
    if epochs is not None:
        steps += f" ({epochs:,.1f} epochs)" if not plan.step else f" ({epochs:,.1f} epochs in all)"
    minutes = plan.submission.minutes
    if plan.submission.machine.num_gpus or config.precision == "fp16":  # slow on any cores
        return steps
    # All ranks wait for those that have most of a step.
    size, most = plan.ranks.world_size, math.ceil(config.global_batch_size / plan.ranks.world_size)
    tokens = most * size * config.seq_len
    recomputes = config.activation_checkpointing == "on"
    seconds = step_seconds(plan.shape, tokens, plan.adapters > 0, recomputes)
    text = (
        f"{steps}; a step of {config.tokens_per_step:,} tokens takes about {duration(seconds)}, all of "
        f"them {duration(seconds * left)}"
    )
    if minutes is not None and (starts := math.ceil(seconds * left / (60 * minutes))) > 1:
        text += f", {starts:,} starts"
    return text + ("; for a quick look: make demo" if seconds > QUICK_LOOK_SECONDS else "")
