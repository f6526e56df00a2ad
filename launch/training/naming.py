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
from instruct_core.errors import InstructError
from instruct_core.storage.documents import load_document
from launch.flags.finetune import FORK, Finetune, is_fork
from launch.runs.run import Run
from launch.training.inputs import find_init

GPT2 = "gpt2"


def default_name(flags: Finetune, shards: str) -> str:
    """Return the name of a run that was not given one."""
    return f"{flags.model or _base(flags.init, flags.checkpoints)}-{Path(shards).name}"


def _base(init: str | None, checkpoints: str) -> str:
    if init in (None, "random"):
        return GPT2
    if is_fork(init):
        try:
            begun = Run.find(str(init).removeprefix(FORK).partition("@")[0], checkpoints).config
        except (InstructError, OSError):  # as below
            return GPT2
        return begun.model or _base(begun.init, checkpoints)
    try:
        place = find_init(init).place
        kind = load_document(opened(place), "config.json").get("model_type", GPT2)
    except (InstructError, OSError):  # no folder, or not there: whoever loads it says so
        return GPT2
    if kind == GPT2:
        return GPT2
    run = Run.of_step(place)
    name = run.name if run is not None else str(init).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or str(kind)
