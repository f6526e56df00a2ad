"""
Which faults hit a drill, and after which step: as typed, or drawn.

    faults = schedule_of("usr2@5,kill@11", num_steps=30, world_size=2, on_slurm=False)
    faults = drawn(10, seed=7, num_steps=30, world_size=2, on_slurm=False)

A kill loses what was made since the last save, and three crashes in a row without progress end a run,
as they should: a drill saves so often that its own kills cannot do that.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from instruct_core.errors import ConfigError
from jobs.drill import KINDS, Fault, Kind

TYPED = re.compile(r"([a-z0-9]+)@(\d+)")
KILLS: tuple[Kind, ...] = ("kill", "save")
KILLS_IN_A_ROW = 2  # that a run outlives without a save between them
SAVE_EVERY = (5, 4, 3, 2, 1)  # steps between saves, the first that suits
STEPS_OF_A_SAVE = 2  # during which it may still be written: a kill then finds it unfinished


def schedule_of(typed: str, num_steps: int, world_size: int, on_slurm: bool) -> list[Fault]:
    """
    Return the faults that were typed, in the order of their steps.

    Args:
        typed: As in usr2@5,kill@11.
        num_steps: Of the run.
        world_size: Its ranks; those that are killed or suspended take turns.
        on_slurm: Whether Slurm can requeue it.

    Raises:
        ConfigError: One is none, lies outside the run, or cannot be had here.
    """
    kinds = [kind for kind in KINDS if on_slurm or kind != "requeue"]
    faults = []
    for number, word in enumerate(typed.split(",")):
        found = TYPED.fullmatch(word.strip())
        kind = next((k for k in get_args(Kind) if found and k == found[1]), None)
        if found is None or kind is None:
            raise ConfigError(
                f"--faults must be KIND@STEP with commas, KIND one of {', '.join(kinds)}, got {word!r}."
            )
        if kind not in kinds:
            raise ConfigError(
                f"--faults {word} needs Slurm. Use --cluster slurm, or kill@{found[2]}."
            )
        if not 1 <= int(found[2]) < num_steps:
            raise ConfigError(
                f"--faults {word} must come after step 1 to {num_steps - 1} of {num_steps}. Give more "
                "--steps, or another step."
            )
        faults.append(Fault(kind, int(found[2]), _rank(kind, number, world_size)))
    faults.sort(key=lambda fault: fault.step)
    _refuse_too_many_kills(faults)
    return faults


def drawn(count: int, seed: int, num_steps: int, world_size: int, on_slurm: bool) -> list[Fault]:
    """
    Return so many faults at steps of their own, the same ones for a seed.

    Raises:
        ConfigError: The run has not so many steps.
    """
    if count >= num_steps:
        raise ConfigError(
            f"--random-faults must be less than --steps {num_steps}, got {count}. Give more --steps."
        )
    draw = random.Random(seed)
    kinds = [kind for kind in KINDS if kind != "stop" and (on_slurm or kind != "requeue")]
    steps = sorted(draw.sample(range(1, num_steps), count))
    chosen = [draw.choice(kinds) for _ in steps]
    return [
        Fault(kind, step, _rank(kind, draw.randrange(world_size), world_size))
        for kind, step in zip(chosen, steps, strict=True)
    ]


def _rank(kind: Kind, number: int, world_size: int) -> int:
    """Return who is hit; a warning reaches all ranks, whoever sends it."""
    return (number if kind in ("kill", "save", "stop") else 0) % world_size


def _refuse_too_many_kills(faults: Sequence[Fault]) -> None:
    kills = Counter(_progress_at(fault, 1) for fault in faults if fault.kind in KILLS)
    for step, count in sorted(kills.items()):
        if count > KILLS_IN_A_ROW:
            raise ConfigError(
                f"--faults has {count} kills where step {step} is the newest saved one at best: a run "
                f"that crashes three times without progress ends, and should. Give at most "
                f"{KILLS_IN_A_ROW} kill@{step} and save@{step + 1}."
            )


def _progress_at(fault: Fault, every: int) -> int:
    """Return how many saves a run has behind it when a kill comes: amid a save, all but that one."""
    return (fault.step - 1 if fault.kind == "save" else fault.step) // every


def save_every(faults: Sequence[Fault]) -> int:
    """Return after how many steps the drill's runs save: never more than two kills between two saves."""
    kills = [fault for fault in faults if fault.kind in KILLS]
    for every in SAVE_EVERY:
        saves = Counter(_progress_at(fault, every) for fault in kills)
        saves.update(
            _progress_at(fault, every) - 1
            for fault in kills
            if fault.kind == "kill" and fault.step % every < STEPS_OF_A_SAVE
        )
        if max(saves.values(), default=0) <= KILLS_IN_A_ROW:
            return every
    return SAVE_EVERY[-1]
