"""
    python -m bench.rank_memory                         # many shapes, a process each
    python -m bench.rank_memory tiny 8 256              # one: model, micro-batch, --seq-len
    python -m bench.rank_memory tiny 8 1024 --dropout 0.1 --activation-checkpointing on
    python -m bench.rank_memory gpt2 1 256 --ranks 2 --shard full

Peak memory of a CPU rank that trains and saves at every step, and what the launcher says before
(launch/training/fit.py). Of several the one that takes most.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

import jobs.attempt  # noqa: F401  # what a rank has loaded
from bench import train_step
from bench.common import machine, parser, status_of
from instruct_core.config import PRESETS, TrainConfig
from jobs.world import keep_freed_memory, return_freed_memory
from launch.training.fit import rank_bytes
from tests.forked_ranks import in_ranks

AGAIN = "--activation-checkpointing on"
SHAPES = (
    "tiny 1 256", "tiny 4 256", "tiny 8 256", "tiny 16 256", "tiny 32 256", "tiny 8 1024", "tiny 32 1024",
    "tiny 8 1024 --dropout 0.1", "tiny-llama 4 1024 --dropout 0.1", "small-demo 4 1024 --dropout 0.1",
    "gpt2 1 1024 --dropout 0.1", "tiny 8 256 --precision bf16", "tiny-llama 8 256", "tiny-llama 8 1024",
    "small-demo 4 256", "small-demo 4 1024", "gpt2 1 256", "gpt2 4 256", "gpt2 1 1024",
    f"small-demo 4 1024 {AGAIN}", f"small-demo 4 1024 --dropout 0.1 {AGAIN}", f"gpt2 1 1024 {AGAIN}",
    f"tiny-llama 8 1024 {AGAIN}", "gpt2 1 256 --ranks 2", "gpt2 1 256 --ranks 2 --shard full",
    "gpt2 1 256 --ranks 4 --shard full", "gpt2-medium 1 256 --ranks 2 --shard full",
)  # fmt: skip


def measure(
    model: str, micro_batch_size: int, seq_len: int, num_ranks: int, **changes: Any
) -> None:
    """Train in this process, or in several, and print the peak beside the estimate."""
    (return_freed_memory if changes["shard"] == "full" else keep_freed_memory)()
    config = TrainConfig(
        "bench", "", "", "", "random", model, "", max_steps=train_step.WARMUP_STEPS + 1,
        seq_len=seq_len, micro_batch_size=micro_batch_size, **changes,
        tokens_per_step=2 * num_ranks * micro_batch_size * seq_len, eval_every=10**6, save_every=1,
    )  # fmt: skip
    if num_ranks == 1:
        peak = _peak(config)
    else:
        with tempfile.TemporaryDirectory() as folder:
            peak = max(in_ranks(num_ranks, lambda rank: _peak(config, folder)))
    estimate = rank_bytes(PRESETS[model], config, num_ranks)
    line = {
        "bench": "rank memory",
        "contender": " ".join(sys.argv[1:]),
        "peak_megabytes": round(peak / 1e6),
        "estimate_megabytes": round(estimate / 1e6),
        "estimate_of_peak": round(estimate / peak, 3),
        "machine": machine(),
    }
    print(json.dumps(line), flush=True)


def _peak(config: TrainConfig, folder: str = "") -> int:
    train_step.run_ours(config, folder)
    return status_of("VmHWM")  # getrusage would count what has executed this program


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("model", nargs="?")
    flags.add_argument("micro_batch_size", nargs="?", type=int, default=8)
    flags.add_argument("seq_len", nargs="?", type=int, default=256)
    flags.add_argument("--dropout", type=float, default=0.0)
    flags.add_argument("--precision", default="fp32")
    flags.add_argument("--activation-checkpointing", default="off")
    flags.add_argument("--ranks", type=int, default=1)
    flags.add_argument("--shard", default="none")
    flags.add_argument("--steps", type=int, default=train_step.WARMUP_STEPS + 1)
    typed = flags.parse_args()
    train_step.WARMUP_STEPS = typed.steps - 1
    if typed.model:
        names = ("dropout", "precision", "activation_checkpointing", "shard")
        changes = {name: getattr(typed, name) for name in names}
        measure(typed.model, typed.micro_batch_size, typed.seq_len, typed.ranks, **changes)
        return
    for shape in SHAPES:
        subprocess.run([sys.executable, "-m", "bench.rank_memory", *shape.split()], check=True)


if __name__ == "__main__":
    main()
