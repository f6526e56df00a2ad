"""
    python -m bench.left_out        # the demo's model; --model gpt2 --batch-size 1 --seq-len 512

Forward and backward on rows of 128 tokens of which the first half is ignored, as with `--loss-on
response`: ours, in which these tokens meet no head and attention goes row by row, against every token
meeting the head, and against attention by a mask. One thread, and its processor time, which other
programs on the machine change little.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from bench.common import parser, report
from instruct_core.config import PRESETS
from instruct_core.data.batches import IGNORED, MicroBatch
from instruct_core.model.families import build
from instruct_core.train.loss import Inputs, WithLoss, on_device
from jobs.world import keep_freed_memory

ROW_TOKENS = 128


def inputs(batch_size: int, seq_len: int) -> Inputs:
    """Return a micro-batch of packed rows, half of each ignored."""
    shape = (batch_size, seq_len)
    tokens = np.random.default_rng(1).integers(0, 50257, shape)
    place = np.broadcast_to(np.arange(seq_len), shape)
    targets = np.roll(tokens, -1, axis=1)
    targets[place % ROW_TOKENS < ROW_TOKENS // 2] = IGNORED
    row_ids = (place // ROW_TOKENS).astype(np.int32)
    batch = MicroBatch(tokens, targets, place % ROW_TOKENS, row_ids)
    return on_device(batch, torch.device("cpu"))


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--model", default="small-demo")
    flags.add_argument("--batch-size", type=int, default=4)
    flags.add_argument("--seq-len", type=int, default=256)
    arguments = flags.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    model = build(PRESETS[arguments.model])
    model.initialize(1)
    core = WithLoss(model)
    batch = inputs(arguments.batch_size, arguments.seq_len)

    def seconds(of: Inputs) -> float:
        model.zero_grad()
        started_at = time.process_time()
        core(*of).backward()
        return time.process_time() - started_at

    seconds(batch)  # the first takes fresh memory
    report(
        f"left_out {arguments.model}",
        {
            "ours": lambda: seconds(batch),
            "every token meets the head": lambda: seconds(batch._replace(learnt=None)),
            "attention by a mask": lambda: seconds(batch._replace(row_starts=None)),
        },
        baseline="ours",
        unit="core_seconds",
        higher_is_better=False,
    )


if __name__ == "__main__":
    main()
