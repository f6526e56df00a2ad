"""
What a launcher asks before it queues a job: can these weights be loaded, and which are they?

    python -m jobs.inspect_weights PATH MODEL SEQ_LEN    # {"shape": ..., "xxh3": ...} or {"error": ...}

A process of its own, because launchers do not import torch.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from instruct_core.errors import InstructError
from instruct_core.model.weights import hash_weights, load_fitting

if __name__ == "__main__":
    init, model, seq_len = sys.argv[1:]
    try:
        shape, weights = load_fitting(init, model, int(seq_len))
        answer: dict[str, Any] = {"shape": asdict(shape), "xxh3": hash_weights(weights)}
    except (InstructError, OSError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
