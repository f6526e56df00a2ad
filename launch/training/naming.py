"""
What a run is called where nobody named it: its base and its shards.

    default_name(flags, "/home/ada/shards/alpaca")      # gpt2-alpaca, or SmolLM2-135M-alpaca

Every GPT-2 is called gpt2, whatever its folder; a base of another family by its folder, or by its name
on the Hub. A run that begins with another's step has the base of that one.
"""

from __future__ import annotations

import re
from pathlib import Path

from instruct_core.checkpoints.steps import opened
from instruct_core.errors import ConfigError, InstructError
from instruct_core.storage.documents import load_document
from instruct_core.storage.patience import PASSING
from instruct_core.storage.plain_errors import may_pass
from launch.flags.finetune import FORK, Finetune, is_fork
from launch.flags.parse import LONGEST_NAME, is_name
from launch.runs.run import Run
from launch.training.inputs import find_init

GPT2 = "gpt2"


def default_name(flags: Finetune, shards: str) -> str:
    """Return the name of a run that was not given one; raises ConfigError where it can be none."""
    name = f"{flags.model or _base(flags.init, flags.checkpoints)}-{Path(shards).name}"
    if not is_name(name):
        raise ConfigError(
            f"--run must be given: {name!r}, made of the model and of --shards {shards}, is no plain "
            f"name of at most {LONGEST_NAME} letters, digits, '.', '_' and '-'."
        )
    return name


def _base(init: str | None, checkpoints: str) -> str:
    if init in (None, "random"):
        return GPT2
    if is_fork(init):
        try:
            begun = Run.find(str(init).removeprefix(FORK).partition("@")[0], checkpoints).config
        except (InstructError, OSError) as error:  # as below
            _raise_if_it_passes(error)
            return GPT2
        return begun.model or _base(begun.init, checkpoints)
    try:
        place = find_init(init).place
        kind = load_document(opened(place), "config.json").get("model_type", GPT2)
    except (InstructError, OSError) as error:  # no folder, or not there: whoever loads it says so
        _raise_if_it_passes(error)
        return GPT2
    if kind == GPT2:
        return GPT2
    run = Run.of_step(place)
    name = run.name if run is not None else str(init).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or str(kind)


def _raise_if_it_passes(error: Exception) -> None:
    """Raise what a disk or a store says that does not answer: another name would be another run."""
    if isinstance(error, OSError) and may_pass(error) and error.errno in {None, *PASSING}:
        raise error
