"""
What a launcher asks before it queues a job: can these weights be loaded, and which are they?

    python -m jobs.inspect_weights PATH MODEL SEQ_LEN
    # {"shape": ..., "xxh3": ..., "projections": {NAME: inputs + outputs}} or {"error": ...}

A process of its own, because launchers do not import torch.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch

from instruct_core.errors import InstructError
from instruct_core.model.families import build
from instruct_core.model.lora import projections, sides
from instruct_core.model.weights import hash_weights, load_fitting


def inspected(init: str, model: str, seq_len: int) -> dict[str, Any]:
    """Return what a launcher asks of weights; raises as `load_fitting` does."""
    shape, weights = load_fitting(init, model, seq_len)
    with torch.device("meta"):
        outline = build(shape)
    sums = {name: sum(sides(module)) for name, module in projections(outline).items()}
    return {"shape": asdict(shape), "xxh3": hash_weights(weights), "projections": sums}


if __name__ == "__main__":
    init, model, seq_len = sys.argv[1:]
    try:
        answer: dict[str, Any] = inspected(init, model, int(seq_len))
    except (InstructError, OSError) as error:
        answer = {"error": str(error)}
    with suppress(BrokenPipeError):  # who asked has been killed
        os.write(sys.stdout.fileno(), json.dumps(answer).encode())
