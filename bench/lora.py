"""
    python -m bench.lora            # 124M parameters; --model small-demo for a quick look

A training step of adapters (rank 8, the usual projections) beside one of all weights: forward, loss,
backward, clip, update, in turn in one process. Then one durable save of what the adapters' run keeps: its
bytes beside those of the base, and its seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.common import parser, report, seconds_of
from bench.train_step import Batches
from instruct_core.checkpoints.manifest import WITH_BASE, Progress
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.lora_settings import Base
from instruct_core.model.family import Model
from instruct_core.model.lora import saved_tensors
from instruct_core.storage.store import Store
from instruct_core.train.beginning import begin
from instruct_core.train.loss import WithLoss
from instruct_core.train.optimizer import FusedAdamW, make_optimizer, optimizer_tensors
from instruct_core.train.rng import rng_state
from jobs.world import keep_freed_memory

SAVES = 5


def stepper(config: TrainConfig) -> tuple[Model, FusedAdamW, Callable[[], None]]:
    """Return a model, its optimizer, and what makes one step of it."""
    model = begin(config, None).model
    optimizer, core = make_optimizer(model, config), WithLoss(model)
    batch = Batches(config).micro_batch(np.zeros(config.micro_batch_size, np.uint64))
    tensors = [torch.from_numpy(array) for array in batch[:4]]

    def step() -> None:
        (core(*tensors) / tensors[0].numel()).backward()
        torch.nn.utils.clip_grad_norm_(core.parameters(), config.clip)
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, step


def save_seconds(folder: str, model: Model, optimizer: FusedAdamW) -> tuple[float, int]:
    """Return the median seconds of a durable save, and the bytes of a step's folder."""
    checkpoints, seconds = Checkpoints(Store(folder)), []
    checkpoints.claim_attempt()
    for step in range(SAVES):
        facts = {"base": Base("b", "x"), "format": WITH_BASE, "model": model.config}
        facts["progress"] = Progress(step, 0, 0)
        snapshot = checkpoints.take(
            step, saved_tensors(model), {}, optimizer_tensors(model, optimizer), rng_state(), facts
        )
        seconds.append(seconds_of(lambda snapshot=snapshot: checkpoints.write(snapshot, Keep(2))))
    files = (Path(folder) / f"step-{SAVES - 1:08d}").iterdir()
    return sorted(seconds)[SAVES // 2], sum(path.stat().st_size for path in files)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="gpt2", choices=PRESETS)
    arguments.add_argument("--seq-len", type=int, default=256)
    arguments.add_argument("--micro-batch-size", type=int, default=2)
    flags = arguments.parse_args()
    keep_freed_memory()
    full = TrainConfig(
        "r", "s", "c", "t", "random", flags.model, "f", seq_len=flags.seq_len,
        micro_batch_size=flags.micro_batch_size,
    )  # fmt: skip
    lora = TrainConfig(
        "r", "s", "c", "t", "random", flags.model, "f", seq_len=flags.seq_len,
        micro_batch_size=flags.micro_batch_size, lora=8, lora_alpha=16.0, lora_targets="c_attn",
    )  # fmt: skip
    _, _, full_step = stepper(full)
    model, optimizer, lora_step = stepper(lora)
    contenders = {
        "all weights": lambda: seconds_of(full_step),
        "adapters": lambda: seconds_of(lora_step),
    }
    for contender in contenders.values():
        contender()  # makes the moments
    report("lora step", contenders, "all weights", "seconds", higher_is_better=False)
    with tempfile.TemporaryDirectory() as folder:
        seconds, size = save_seconds(folder, model, optimizer)
    base = 4 * model.config.num_parameters
    print(f"a save: {seconds:.3f} s, {size / 1e6:.2f} MB, {size / base:.2%} of the base")


if __name__ == "__main__":
    main()
