"""
What a launcher asks before it queues a job: can these weights be started from?

    python -m jobs.check_init PATH MODEL SEQ_LEN      # prints {"shape": ...} or {"error": ...}

A process of its own, because launchers do not import torch.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from instruct_core.errors import InstructError
from instruct_core.model.pretrained import load_fitting

if __name__ == "__main__":
    init, model, seq_len = sys.argv[1:]
    try:
        answer: dict[str, Any] = {"shape": asdict(load_fitting(init, model, int(seq_len))[0])}
    except (InstructError, OSError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))
