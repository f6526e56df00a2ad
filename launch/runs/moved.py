"""
Settings of a run whose project has moved since: its places lie beside its checkpoints still.

    moved(config, "/new/checkpoints_instruct").shards        # /new/shards/alpaca, no more /old/...
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from instruct_core.config import TrainConfig


def moved(stored: TrainConfig, checkpoints: str) -> TrainConfig:
    """
    Return settings with their places where they lie now.

    Args:
        stored: With the places that were written down.
        checkpoints: Where the checkpoints of runs lie now. Places below the folder that held them are
            looked for beside them; URLs, and what lay elsewhere, stay.
    """
    before, now = (str(Path(place).parent) for place in (stored.checkpoints, checkpoints))
    if before == now or "://" in stored.checkpoints + checkpoints:
        return replace(stored, checkpoints=checkpoints)

    def where(place: str) -> str:
        return now + place.removeprefix(before) if place.startswith(f"{before}/") else place

    return replace(
        stored,
        checkpoints=checkpoints,
        shards=where(stored.shards),
        init=where(stored.init),
        runs=where(stored.runs),
    )
