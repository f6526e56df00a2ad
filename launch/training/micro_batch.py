"""
How a step is divided over ranks: the micro-batch that was typed, or the best that fits.

    config, why = fit(config, Ranks(nodes=2, per_node=8), shape, machine, typed=None, begun=None)

A step keeps its tokens however many ranks there are, and they may take unequal shares of it. A
micro-batch that nobody typed is chosen anew for each launch; one that still fits is kept: sums then keep
their order, and a resume its bits. So is a model in parts, which free memory alone does not make whole.
On GPUs whose memory is known it may be four times the recipe's own, which is what fills a large one;
and where not one sequence fits into it, layers are recomputed, or the model is shared out over the ranks.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

from instruct_core.config import TrainConfig
from instruct_core.errors import ConfigError
from instruct_core.recipe import MICRO_BATCH_SIZE, Shard, Switch
from instruct_core.shape import Shape
from launch.cluster.machine import Machine
from launch.console.lines import counted
from launch.training.fit import gigabytes, gpu_bytes, rank_bytes

GPU_MICRO_BATCH_SIZE = 32  # a H200 was 1.55 times as fast as with 8, see docs/performance.md
# Of a GPU's memory, that a micro-batch beyond the recipe's own may take: what is estimated must not
# end a run that would have had room.
SURE_SHARE = 0.75


class Ranks(NamedTuple):
    """How many there are."""

    nodes: int
    per_node: int

    @property
    def world_size(self) -> int:
        """Ranks of all nodes."""
        return self.nodes * self.per_node


class Settings(NamedTuple):
    """A run's settings, and why its micro-batch is not the recipe's own, or what spares memory."""

    config: TrainConfig
    why: str  # "" where neither is so


def fit(
    config: TrainConfig,
    ranks: Ranks,
    shape: Shape,
    machine: Machine,
    typed: int | None,
    begun: TrainConfig | None,
    adapters: int = 0,
) -> Settings:
    """
    Return the settings with a micro-batch that fits ranks and machine, and nothing left open.

    Args:
        config: All other settings.
        ranks: That share a step.
        shape: Of the model.
        machine: What a node gives them.
        typed: The micro-batch that a person wants; None leaves it open.
        begun: Those that it has saved with, if it has: then nothing is advised that it keeps for life.
        adapters: Numbers that are trained, if not all weights are.

    Raises:
        ConfigError: A step has no sequence for every rank, or nothing fits; names what would do.
    """
    has_begun, kept = begun is not None, begun.micro_batch_size if begun is not None else None
    _check_ranks(config, ranks, has_begun)
    sequences, number = config.global_batch_size, ranks.world_size
    most = math.ceil(sequences / number)  # of one rank
    was_in_parts = begun is not None and begun.is_in_parts(ranks.world_size)
    room = _Room(config, config, ranks, shape, machine, adapters, was_in_parts).settled()
    again, config = room.why(), room.config
    sizes = range(min(GPU_MICRO_BATCH_SIZE, most), 0, -1)
    fitting = [s for s in sizes if (room.has(s) if s <= MICRO_BATCH_SIZE else room.surely_has(s))]
    if typed is None and kept is not None and kept <= most and room.has(kept):
        return Settings(replace(config, micro_batch_size=kept), again)
    best = _best(sequences, number, fitting) if fitting else None
    chosen = typed or best or 1
    if not room.has(chosen):
        raise ConfigError(room.refusal(chosen, best, has_begun))
    why = again
    if typed is None and (chosen != MICRO_BATCH_SIZE or has_begun):
        before = f"instead of {kept} so far, " if has_begun else ""
        reason = f"the largest that fits {machine.name} and the step"
        if chosen > MICRO_BATCH_SIZE:
            reason = f"which fills the GPUs of {machine.name} better"
        why = ", ".join(filter(None, (f"{before}{reason}", again)))
    return Settings(replace(config, micro_batch_size=chosen), why)


def _check_ranks(config: TrainConfig, ranks: Ranks, has_begun: bool) -> None:
    """Refuse a step with fewer sequences than ranks, or a broken one; name the change that would do."""
    try:
        config.grad_accum_steps(ranks.world_size)
    except ConfigError as error:
        sequences, is_whole = config.global_batch_size, config.tokens_per_step % config.seq_len == 0
        advice = [_most_ranks(ranks, sequences)] if is_whole else []
        if not has_begun:
            enough = max(sequences, ranks.world_size) * config.seq_len
            advice.append(f"--tokens-per-step {enough}")
        raise ConfigError(f"{error} Use {' or '.join(advice)}.") from None


def _most_ranks(ranks: Ranks, sequences: int) -> str:
    """Return how to ask for as many ranks as a step has sequences: on each node, else on fewer."""
    if ranks.nodes <= sequences:
        return f"--gpus {sequences // ranks.nodes}"
    if ranks.per_node <= sequences:
        return f"--nodes {sequences // ranks.per_node}"
    return f"--nodes 1 --gpus {sequences}"


def _best(sequences: int, world_size: int, fitting: list[int]) -> int:
    """
    Return the micro-batch for a step's sequences.

    The largest that fills every micro-batch of every rank. Where that is small beside what fits, or
    there is none, some are filled in part: then as few as can be, of about one size.
    """
    largest, most = fitting[0], math.ceil(sequences / world_size)
    even = next((size for size in fitting if sequences % (world_size * size) == 0), 0)
    return even if 2 * even >= largest else math.ceil(most / math.ceil(most / largest))


class _Room(NamedTuple):
    """What there is for the ranks of one node, and what they need."""

    config: TrainConfig
    asked: TrainConfig  # what was typed, with what was left open
    ranks: Ranks
    shape: Shape
    machine: Machine
    adapters: int
    was_in_parts: bool  # and stays so; once it is settled, only for that reason

    def with_settings(self, recomputing: Switch, shard: Shard) -> _Room:
        """Return the same with activation checkpointing or without, in parts or whole."""
        changed = replace(self.config, activation_checkpointing=recomputing, shard=shard)
        return self._replace(config=changed)

    def settled(self) -> _Room:
        """Return the same with what was typed, the rest settled so that one sequence fits."""
        asked = self.asked
        kinds = _choices(asked.shard, "none", "full" if self._may_share() else "none")
        again = _choices(asked.activation_checkpointing, "off", "on")
        ways = [self.with_settings(on, shard) for shard in kinds for on in again]
        if not self.machine.num_gpus:
            return ways[0]._replace(was_in_parts=False)
        anew = next((way for way in ways if way.has(1)), ways[-1])
        as_before = [way for way in ways if way.config.shard == "full" and way.has(1)]
        if self.was_in_parts and as_before and anew.config.shard == "none":
            return as_before[0]
        return anew._replace(was_in_parts=False)

    def _may_share(self) -> bool:
        return self.config.may_be_in_parts(self.ranks.world_size)

    def why(self) -> str:
        """Return what is said of activation checkpointing and of parts; "" without them."""
        chosen, told = [], []
        for name, words in self._helps():
            if getattr(self.asked, name) != "auto":
                told.append(f"with {words}")
            elif name == "shard" and self.was_in_parts:
                told.append(f"with {words} as so far (--shard none has it whole)")
            else:
                chosen.append(f"with {words}")
        if self.asked.shard == "full" and self.ranks.world_size == 1:
            told.append(
                "with --shard full, which takes two ranks or more: this one has the model whole"
            )
        if chosen:
            chosen[-1] += " (without it not one sequence fits)"
        return " and ".join(chosen + told)

    def _helps(self) -> list[tuple[str, str]]:
        """Return what spares memory here: settings, and what is said of them."""
        helps = []
        if self._recomputes():
            helps.append(("activation_checkpointing", "activation checkpointing"))
        if self._parts() > 1:
            helps.append(("shard", f"the model in {self._parts()} parts"))
        return helps

    def _parts(self) -> int:
        number = self.ranks.world_size
        return number if self.config.is_in_parts(number) else 1

    def _recomputes(self) -> bool:
        return self.config.activation_checkpointing == "on"

    def has(self, size: int) -> bool:
        """Return True if micro-batches of a size fit, or nobody knows."""
        free = self._free()
        return free is None or self._needed(size) < free

    def surely_has(self, size: int) -> bool:
        """Return True if there are GPUs that would have memory left over."""
        free = self.machine.gpu_bytes if self.machine.num_gpus else None
        return free is not None and self._needed(size) < SURE_SHARE * free

    def _free(self) -> int | None:
        machine = self.machine
        return machine.gpu_bytes if machine.num_gpus else machine.memory_bytes

    def _needed(self, size: int) -> int:
        config = self.config
        if self.machine.num_gpus:
            tokens = size * config.seq_len
            again = self._recomputes()
            parts = self._parts()
            return gpu_bytes(self.shape, tokens, config.precision, self.adapters, again, parts)
        sized = replace(config, micro_batch_size=size)
        number = self.ranks.world_size
        return self.ranks.per_node * rank_bytes(self.shape, sized, number, self.adapters)

    def refusal(self, size: int, best: int | None, has_begun: bool) -> str:
        """Return what is said of a size that does not fit, and which change would."""
        machine, free = self.machine, self._free() or 0
        who, where, remedy = counted(self.ranks.per_node, "CPU rank"), machine.name, machine.remedy
        if machine.num_gpus:
            who, where, remedy = "A rank", f"a GPU of {machine.name}", "GPUs with more memory"
        change = remedy if has_begun else f"{remedy}, or a smaller --model"
        if best is not None:
            change = f"--micro-batch-size {best}"
        elif help := self._another_help(size) or self._more_gpus(size):
            change = f"{help}, or {change}"
        again = "".join(f" and {words}" for _, words in self._helps())
        needed, there = gigabytes(self._needed(size), free)
        return (
            f"{who} with --micro-batch-size {size}{again} would need about {needed}, and {there} are "
            f"free on {where}. Use {change}."
        )

    def _another_help(self, size: int) -> str:
        """Return the flags with which one sequence would fit, if there are any."""
        now = self.config.activation_checkpointing, self.config.shard
        shared: Shard = "full" if self._may_share() else now[1]
        on: Switch = "on"
        for recomputing, shard in ((on, now[1]), (now[0], shared), (on, shared)):
            way = self.with_settings(recomputing, shard)
            if way != self and way.has(1):
                return " ".join(way._flags(size))
        if self.config.compile:
            without = self._replace(config=replace(self.config, compile=False))
            return " ".join(without._flags(size)) if without.has(1) else without._another_help(size)
        return ""

    def _more_gpus(self, size: int) -> str:
        """Return how many GPUs would have room for one sequence of a model in parts, if that helps."""
        now = self.config
        eager = self._replace(config=replace(now, compile=False))
        numbers = range(self.ranks.world_size + 1, now.global_batch_size + 1)
        recomputing: Switch
        for recomputing in (now.activation_checkpointing, "on") if self.machine.num_gpus else ():
            way = eager.with_settings(recomputing, "full")
            for more in (way._replace(ranks=Ranks(1, number)) for number in numbers):
                if more.has(1):
                    gpus, flags = f"{more.ranks.per_node} GPUs", " ".join(more._flags(size))
                    return f"{gpus} with {flags}" if flags else gpus
        return ""

    def _flags(self, size: int) -> list[str]:
        """Return the flags beside what was typed that make these settings, with a size that fits."""
        config, asked = self.config, self.asked
        words = ["--no-compile"] if asked.compile and not config.compile else []
        # What is left open is chosen on GPUs, by the room for one sequence.
        is_open = asked.activation_checkpointing == "auto" and size == 1 and self.machine.num_gpus
        if (
            config.activation_checkpointing == "on" != asked.activation_checkpointing
            and not is_open
        ):
            words.append("--activation-checkpointing on")
        words += ["--shard full"] if config.shard == "full" != asked.shard else []
        return words if self.has(size) else [*words, "--micro-batch-size 1"]


def _choices(asked: str, *ways: Any) -> list[Any]:
    """Return what was typed; where that was left open, the ways in the order to try them."""
    return list(dict.fromkeys(ways)) if asked == "auto" else [asked]
