"""What bench/checkpoint.py compares: a state of 124M parameters, and the ways to save it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from bench.common import seconds_of
from instruct_core.checkpoints.manifest import Progress
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.snapshot import Snapshot
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.events import Event, SaveFailed
from instruct_core.model.families import build
from instruct_core.storage.store import Store
from instruct_core.train.optimizer import make_optimizer, optimizer_tensors
from instruct_core.train.rng import rng_state

CONFIG = TrainConfig("bench", "", "", "", "random", "gpt2", "", keep_checkpoints=3)
DCP_FILES = "dcp"


class State:
    """A model with its optimizer, and one training step of it."""

    def __init__(self) -> None:
        self.model = build(PRESETS["gpt2"])
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
            self.number, self.model.state_dict(), self.model.config.hugging_face,
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
    view = memoryview(data.data)
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

    moments = optimizer_tensors(state.model, state.optimizer)
    content = {"state_dict": state.model.state_dict(), "optimizer_states": [moments]}
    TorchCheckpointIO().save_checkpoint(content, folder / "last.ckpt")
    flush(folder)


def trainer_of(state: State, folder: Path) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    model = GPT2LMHeadModel(GPT2Config(**state.model.config.hugging_face))
    arguments = TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True)
    trainer = Trainer(model=model, args=arguments)
    trainer.create_optimizer_and_scheduler(10)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return trainer
