"""
    python -m bench.checkpoint_memory "ours async"        # one contender; bench.checkpoint asks for all

Peak memory of a save of 124M parameters with AdamW's moments, beyond the state itself, a process a
contender.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from bench.common import machine, parser, status_of
from bench.savers import (
    CONFIG,
    DCP_FILES,
    State,
    checkpoints_in,
    save_ours,
    save_safetensors,
    save_torch,
)
from instruct_core.checkpoints.saves import Saves

CONTENDERS = ("ours async", "ours sync", "torch.save", "safetensors", "dcp", "dcp async")


def bench_memory() -> None:
    """Peak memory of a save beyond the state itself, each in a process of its own."""
    for name in CONTENDERS:
        output = subprocess.run(
            [sys.executable, "-m", "bench.checkpoint_memory", name], check=True,
            stdout=subprocess.PIPE, encoding="utf-8",
        ).stdout  # fmt: skip
        print(output.splitlines()[-1], flush=True)


def memory_of(name: str, root: Path) -> None:
    state = State()
    size = sum(tensor.nbytes for tensor in state.tensors().values())
    checkpoints = checkpoints_in(root)
    saves = Saves(
        CONFIG, checkpoints, lambda copied: state.take(checkpoints, copied), lambda event: None
    )
    saved: dict[str, Callable[[], object]] = {
        "ours async": lambda: saves.begin(state.number + 1),
        "ours sync": lambda: save_ours(state, root),
        "torch.save": lambda: save_torch(state, root),
        "safetensors": lambda: save_safetensors(state, root),
        "dcp": lambda: dcp.save(state.tensors(), checkpoint_id=root / DCP_FILES),
        "dcp async": lambda: dcp.async_save(
            state.tensors(), checkpoint_id=root / f"{DCP_FILES}{time.monotonic_ns()}"
        ).result(),  # type: ignore[union-attr]
    }
    Path("/proc/self/clear_refs").write_bytes(b"5")  # the peak begins anew; see proc(5)
    before = status_of("VmRSS")
    for _ in range(2):
        saved[name]()
    saves.finish(state.number, lambda: False) if name == "ours async" else None
    line = {
        "bench": "checkpoint memory",
        "contender": name,
        "times_state": round((status_of("VmHWM") - before) / size, 3),
        "state_megabytes": round(size / 1e6),
        "machine": machine(),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("contender", choices=CONTENDERS)
    typed = flags.parse_args()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        root = Path(folder)
        dist.init_process_group("gloo", init_method=f"file://{root}/meet", rank=0, world_size=1)
        memory_of(typed.contender, root)
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
