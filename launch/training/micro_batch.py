"""
How a step is divided over ranks: the micro-batch that was typed, or the best that fits.

    config, why = fit(config, Ranks(nodes=2, per_node=8), shape, machine, typed=None, kept=None)

A step keeps its tokens however many ranks there are, so a micro-batch that nobody typed is chosen
anew for each launch. One that still fits is kept: sums then keep their order, and a resume its bits.
On GPUs whose memory is known it may be four times the recipe's own, which is what fills a large one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from instruct_core.config import TrainConfig
from instruct_core.errors import ConfigError
from instruct_core.recipe import MICRO_BATCH_SIZE
from instruct_core.shape import Shape
from launch.cluster.machine import Machine
from launch.console.lines import counted
from launch.training.fit import gpu_bytes, rank_bytes

GPU_MICRO_BATCH_SIZE = 32  # a H200 was 1.55 times as fast as with 8, see docs/performance.md
# Of a GPU's memory, that a micro-batch beyond the recipe's own may take: what is estimated must not
# end a run that would have had room.
SURE_SHARE = 0.75
MOST_ADVISED = 10_000  # ranks of a node, or nodes, that anybody is told to use


class Ranks(NamedTuple):
    """How many there are."""

    nodes: int
    per_node: int

    @property
    def world_size(self) -> int:
        """Ranks of all nodes."""
        return self.nodes * self.per_node


class Settings(NamedTuple):
    """A run's settings, and why its micro-batch is not the recipe's own ("" where it is)."""

    config: TrainConfig
    why_micro_batch: str


def fit(
    config: TrainConfig,
    ranks: Ranks,
    shape: Shape,
    machine: Machine,
    typed: int | None,
    kept: int | None,
    adapters: int = 0,
) -> Settings:
    """
    Return the settings with a micro-batch that fits ranks and machine.

    Args:
        config: All other settings.
        ranks: That share a step.
        shape: Of the model.
        machine: What a node gives them.
        typed: The micro-batch that a person wants; None leaves it open.
        kept: What the run has had, if it has saved: then nothing is advised that it keeps for life.
        adapters: Numbers that are trained, if not all weights are.

    Raises:
        ConfigError: The ranks cannot share a step, or nothing fits; names what would.
    """
    has_begun = kept is not None
    if config.tokens_per_step % (ranks.world_size * config.seq_len):
        raise ConfigError(_cannot_share(config, ranks, typed or 1, has_begun))
    share = config.global_batch_size // ranks.world_size
    room = _Room(config, ranks, shape, machine, adapters)
    sizes = [s for s in range(min(GPU_MICRO_BATCH_SIZE, share), 0, -1) if share % s == 0]
    fitting = [s for s in sizes if (room.has(s) if s <= MICRO_BATCH_SIZE else room.surely_has(s))]
    if typed is None and kept is not None and share % kept == 0 and room.has(kept):
        return Settings(replace(config, micro_batch_size=kept), "")
    chosen = typed or (fitting[0] if fitting else 1)
    if not room.has(chosen):
        raise ConfigError(room.refusal(chosen, fitting, has_begun))
    if share % chosen:
        raise ConfigError(_cannot_share(config, ranks, chosen, has_begun))
    why = ""
    if typed is None and (chosen != MICRO_BATCH_SIZE or has_begun):
        before = f"instead of {kept} so far, " if has_begun else ""
        why = f"{before}the largest that fits {machine.name} and the step"
        if chosen > MICRO_BATCH_SIZE:
            why = f"{before}which fills the GPUs of {machine.name} better"
    return Settings(replace(config, micro_batch_size=chosen), why)


def _cannot_share(config: TrainConfig, ranks: Ranks, size: int, has_begun: bool) -> str:
    """Return what is said of ranks that cannot share a step evenly, and which change would do."""
    number, seq_len, tokens = ranks.world_size, config.seq_len, config.tokens_per_step
    unit = number * size * seq_len
    advice = _ranks_that_share(config, ranks, size)
    if tokens % (number * seq_len) == 0:
        advice = [f"--micro-batch-size {math.gcd(config.global_batch_size // number, size)}"]
    if has_begun:
        return (
            f"Run {config.run} has {config.global_batch_size} sequences a step, which "
            f"{counted(number, 'rank')} cannot share in micro-batches of {size}. Use {advice[0]}."
        )
    advice.append(f"--tokens-per-step {max(1, tokens // unit) * unit}")
    return (
        "--tokens-per-step must be a multiple of ranks x --micro-batch-size x --seq-len = "
        f"{number} x {size} x {seq_len} = {unit}, got {tokens}. Use {' or '.join(advice)}."
    )


def _ranks_that_share(config: TrainConfig, ranks: Ranks, size: int) -> list[str]:
    """Return the most ranks below these that can share a step: on each node, else on fewer."""
    sequences = config.global_batch_size
    if config.tokens_per_step % config.seq_len:
        return []
    fewer_here = [
        (f"--gpus {number}", ranks.nodes * number)
        for number in range(min(ranks.per_node - 1, MOST_ADVISED), 0, -1)
    ]
    fewer_nodes = [
        (f"--nodes {number}", ranks.per_node * number)
        for number in range(min(ranks.nodes - 1, MOST_ADVISED), 0, -1)
    ]
    for flag, number in (*fewer_here, *fewer_nodes, ("--nodes 1 --gpus 1", 1)):
        share, rest = divmod(sequences, number)
        if rest == 0:
            fits = math.gcd(share, size)
            return [flag if fits == size else f"{flag} --micro-batch-size {fits}"]
    return []


class _Room(NamedTuple):
    """What there is for the ranks of one node, and what they need."""

    config: TrainConfig
    ranks: Ranks
    shape: Shape
    machine: Machine
    adapters: int

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
            return gpu_bytes(self.shape, tokens, config.precision, self.adapters)
        staged = 1 / self.ranks.world_size if config.async_save else 0.0
        sized = replace(config, micro_batch_size=size)
        return self.ranks.per_node * rank_bytes(self.shape, sized, staged, self.adapters)

    def refusal(self, size: int, fitting: list[int], has_begun: bool) -> str:
        """Return what is said of a size that does not fit, and which change would."""
        machine, free = self.machine, self._free() or 0
        who, where, remedy = counted(self.ranks.per_node, "CPU rank"), machine.name, machine.remedy
        if machine.num_gpus:
            who, where, remedy = "A rank", f"a GPU of {machine.name}", "GPUs with more memory"
        change = remedy if has_begun else f"{remedy}, or a smaller --model"
        if fitting:
            change = f"--micro-batch-size {fitting[0]}"
        return (
            f"{who} with --micro-batch-size {size} would need about {self._needed(size) / 1e9:.0f} GB, "
            f"and {free / 1e9:.0f} GB are free on {where}. Use {change}."
        )
