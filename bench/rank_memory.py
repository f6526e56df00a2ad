"""
    python -m bench.rank_memory                         # many shapes, a process each
    python -m bench.rank_memory tiny 8 256              # one: model, micro-batch, --seq-len
    python -m bench.rank_memory tiny 8 1024 --dropout 0.1 --activation-checkpointing on

Peak memory of a CPU rank that trains and saves at every step, and what the launcher says before
(launch/training/fit.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import jobs.attempt  # noqa: F401  # what a rank has loaded
from bench import train_step
from bench.common import machine, parser, status_of
from instruct_core.config import PRESETS, TrainConfig
from jobs.world import keep_freed_memory
from launch.training.fit import rank_bytes

AGAIN = "--activation-checkpointing on"
SHAPES = (
    "tiny 1 256", "tiny 4 256", "tiny 8 256", "tiny 16 256", "tiny 32 256", "tiny 8 1024", "tiny 32 1024",
    "tiny 8 1024 --dropout 0.1", "tiny-llama 4 1024 --dropout 0.1", "small-demo 4 1024 --dropout 0.1",
    "gpt2 1 1024 --dropout 0.1", "tiny 8 256 --precision bf16", "tiny-llama 8 256", "tiny-llama 8 1024",
    "small-demo 4 256", "small-demo 4 1024", "gpt2 1 256", "gpt2 4 256", "gpt2 1 1024",
    f"small-demo 4 1024 {AGAIN}", f"small-demo 4 1024 --dropout 0.1 {AGAIN}", f"gpt2 1 1024 {AGAIN}",
    f"tiny-llama 8 1024 {AGAIN}",
)  # fmt: skip


def measure(model: str, micro_batch_size: int, seq_len: int, **changes: Any) -> None:
    """Train in this process, and print its peak beside the estimate."""
    keep_freed_memory()
    config = TrainConfig(
        "bench", "", "", "", "random", model, "", max_steps=train_step.WARMUP_STEPS + 1,
        seq_len=seq_len, micro_batch_size=micro_batch_size, **changes,
        tokens_per_step=2 * micro_batch_size * seq_len, eval_every=10**6, save_every=1,
    )  # fmt: skip
    train_step.run_ours(config)
    peak = status_of("VmHWM")  # getrusage would count what has executed this program
    estimate = rank_bytes(PRESETS[model], config, 1.0)
    line = {
        "bench": "rank memory",
        "contender": " ".join(sys.argv[1:]),
        "peak_megabytes": round(peak / 1e6),
        "estimate_megabytes": round(estimate / 1e6),
        "estimate_of_peak": round(estimate / peak, 3),
        "machine": machine(),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("model", nargs="?")
    flags.add_argument("micro_batch_size", nargs="?", type=int, default=8)
    flags.add_argument("seq_len", nargs="?", type=int, default=256)
    flags.add_argument("--dropout", type=float, default=0.0)
    flags.add_argument("--precision", default="fp32")
    flags.add_argument("--activation-checkpointing", default="off")
    typed = flags.parse_args()
    if typed.model:
        names = ("dropout", "precision", "activation_checkpointing")
        changes = {name: getattr(typed, name) for name in names}
        measure(typed.model, typed.micro_batch_size, typed.seq_len, **changes)
        return
    for shape in SHAPES:
        subprocess.run([sys.executable, "-m", "bench.rank_memory", *shape.split()], check=True)


if __name__ == "__main__":
    main()
