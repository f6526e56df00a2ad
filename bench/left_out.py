"""
    python -m bench.left_out        # the demo's model; --model gpt2 --batch-size 1 --seq-len 512

Forward and backward on rows of 128 tokens of which the first half is ignored, as with `--loss-on
response`: ours, which leaves these tokens out before the head's product, against every token meeting the
head. One thread, and its processor time, which other programs on the machine change little.
"""

from __future__ import annotations

import time

import torch

from bench.common import parser, report
from instruct_core.config import PRESETS
from instruct_core.data.batches import IGNORED
from instruct_core.model.families import build
from instruct_core.train.loss import Inputs, WithLoss
from jobs.world import keep_freed_memory

ROW_TOKENS = 128


def inputs(batch_size: int, seq_len: int) -> Inputs:
    """Return a micro-batch of packed rows, half of each ignored."""
    shape = (batch_size, seq_len)
    tokens = torch.randint(0, 50257, shape)
    place = torch.arange(seq_len).expand(shape)
    targets = tokens.roll(-1, 1)
    targets[place % ROW_TOKENS < ROW_TOKENS // 2] = IGNORED
    learnt = (targets.flatten() != IGNORED).nonzero()[:, 0]
    row_ids = (place // ROW_TOKENS).int()
    return Inputs(tokens, targets, place % ROW_TOKENS, row_ids, learnt=learnt)


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
        },
        baseline="every token meets the head",
        unit="core_seconds",
        higher_is_better=False,
    )


if __name__ == "__main__":
    main()
