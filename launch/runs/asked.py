"""
What a run asked the cluster for at its last launch, as run.json has it: defaults of the next one.

    asked_in(run.document, "/shared/checkpoints/my-run/run.json")["slurm"].get("time")

The file may be somebody else's, or of another version: what is no such thing is said, not stumbled over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from instruct_core.converter import structure
from instruct_core.errors import CorruptFileError
from instruct_core.recipe import Shard, Switch
from launch.flags.slurm import SlurmFlags


@dataclass(frozen=True)
class Asked:
    """The fields that are read, where they are there."""

    init: str | None = None
    nodes: int = 1
    gpus: int = 1
    spare_nodes: int = 0
    micro_batch_size: int | None = None
    activation_checkpointing: Switch = "auto"
    shard: Shard = "auto"
    slurm: SlurmFlags = field(default_factory=SlurmFlags)
    notify: str | None = None


def asked_in(document: Mapping[str, Any], where: str) -> dict[str, Any]:
    """
    Return what a run asked for, with `slurm` in it.

    Args:
        document: Its run.json.
        where: The same, for messages.

    Raises:
        CorruptFileError: It is not what a launcher writes.
    """
    asked = document.get("asked", {})
    problem = f"{where} has no launch of this version under asked"
    if not isinstance(asked, dict) or not isinstance(asked.get("slurm", {}), dict):
        raise CorruptFileError(f"{problem}: it is no object.")
    structure(asked, Asked, problem)
    return {"slurm": {}, **asked}
