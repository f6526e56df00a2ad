"""Stand-ins that several tests share."""

from __future__ import annotations

from typing import Any

from instruct_core.checkpoints.manifest import Progress
from instruct_core.config import ModelConfig
from jobs.slurm import JobRecord

# The smallest there can be: a manifest is refused whose model is larger than its file.
SHAPE = ModelConfig(num_layers=1, num_heads=1, width=1, max_seq_len=1, vocab_size=1)


def facts_of(step: int, val_loss: float | None = None) -> dict[str, Any]:
    """Return what a trainer adds to a step's manifest."""
    evaluated_at_step = -1 if val_loss is None else step
    progress = Progress(step, step, step, evaluated_at_step=evaluated_at_step, val_loss=val_loss)
    return {"model": SHAPE, "progress": progress}


def record(
    state: str = "RUNNING",
    num_restarts: int = 0,
    end: str = "Unknown",
    may_requeue: bool = True,
    has_lost_its_script: bool = False,
    has_lost_a_node: bool = False,
) -> JobRecord:
    """Return what Slurm says about a job."""
    return JobRecord(
        "7", state, "None", num_restarts, may_requeue, "Unknown", end, "node1", "",
        has_lost_its_script=has_lost_its_script, has_lost_a_node=has_lost_a_node,
    )  # fmt: skip
