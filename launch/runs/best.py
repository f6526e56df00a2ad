"""
Steps of a run by how well they answer.

    best_first(run.store)       # [300, 100, 200]: the least validation loss first
"""

from __future__ import annotations

from instruct_core.checkpoints.steps import committed_steps, read_manifest
from instruct_core.errors import CorruptFileError
from instruct_core.storage.store import Store


def best_first(store: Store) -> list[int]:
    """Return the steps that were evaluated, the best one first; of equal ones the newest, as kept."""
    losses = {step: _val_loss_of(store, step) for step in committed_steps(store)}
    evaluated = [(loss, -step) for step, loss in losses.items() if loss is not None]
    return [-step for _, step in sorted(evaluated)]


def _val_loss_of(store: Store, step: int) -> float | None:
    try:
        return read_manifest(store, step).val_loss
    except (CorruptFileError, FileNotFoundError):  # damaged, or removed meanwhile
        return None
