"""
    python -m bench.lora            # GPT-2 of 124M parameters; --model smollm2 for a Llama's shape

A training step of adapters (rank 8, the usual projections) beside one of all weights, and one of all
weights through transformers' own module: forward, loss, backward, clip, update, in turn in one process,
on rows of a whole sequence, all with the products that a run on this processor takes. Then one durable
save of what the adapters' run keeps: its bytes beside those of the base, and its seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.common import parser, report, seconds_of
from bench.shapes import SHAPES, random_model, transformers_of
from instruct_core.checkpoints.manifest import WITH_BASE, Progress
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import TrainConfig
from instruct_core.data.batches import MicroBatch
from instruct_core.lora_settings import Base, Lora, usual_targets
from instruct_core.model.family import Model
from instruct_core.model.lora import adapt, draw, projections, saved_tensors
from instruct_core.model.products import best_library, products_by
from instruct_core.storage.store import Store
from instruct_core.train.loss import WithLoss, on_device
from instruct_core.train.optimizer import FusedAdamW, make_optimizer, optimizer_tensors
from instruct_core.train.rng import rng_state
from jobs.world import keep_freed_memory

SAVES = 5
CONFIG = TrainConfig("r", "s", "c", "t", "random", "gpt2", "f")
Loss = Callable[[Tensor, Tensor], Tensor]  # the mean of a step, from tokens and targets (B, T)


def loss_of_ours(model: Model) -> Loss:
    core = WithLoss(model)

    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        arrays = tokens.numpy(), targets.numpy()
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape).copy()
        batch = MicroBatch(*arrays, positions, np.zeros(tokens.shape, np.int32))
        total: Tensor = core(*on_device(batch, torch.device("cpu")))
        return total / targets.numel()

    return loss


def loss_of_theirs(model: nn.Module) -> Loss:
    def loss(tokens: Tensor, targets: Tensor) -> Tensor:
        logits = model(input_ids=tokens, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return loss


class Steps:
    """A module with its optimizer, in one and the same loop."""

    def __init__(self, module: nn.Module, loss: Loss, tokens: Tensor) -> None:
        self.module, self.loss, self.tokens = module.train(), loss, tokens
        self.optimizer: FusedAdamW = make_optimizer(module, CONFIG)
        self.step()  # makes the moments

    def step(self) -> float:
        """Make a step; return its loss."""
        loss = self.loss(self.tokens, self.tokens.roll(-1, dims=1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), CONFIG.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def adapted_model(name: str) -> Model:
    """Return a model with adapters of rank 8 beside its usual projections."""
    model = random_model(name)
    adapt(model, Lora(8, 16.0, usual_targets(projections(model))), dropout=0.0)
    draw(model, seed=1)
    return model


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
        seconds.append(seconds_of(partial(checkpoints.write, snapshot, Keep(2))))
    files = (Path(folder) / f"step-{SAVES - 1:08d}").iterdir()
    return sorted(seconds)[SAVES // 2], sum(path.stat().st_size for path in files)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="gpt2", choices=sorted(SHAPES))
    arguments.add_argument("--seq-len", type=int, default=256)
    arguments.add_argument("--micro-batch-size", type=int, default=2)
    flags = arguments.parse_args()
    keep_freed_memory()
    tokens = torch.randint(0, 49152, (flags.micro_batch_size, flags.seq_len))
    full, adapted = random_model(flags.model), adapted_model(flags.model)
    theirs = transformers_of(random_model(flags.model))
    steps = {
        "all weights": Steps(full, loss_of_ours(full), tokens),
        "adapters": Steps(adapted, loss_of_ours(adapted), tokens),
        "transformers' module": Steps(theirs, loss_of_theirs(theirs), tokens),
    }
    with products_by(best_library()):  # as in a run
        report(
            f"step/{flags.model}",
            {name: partial(seconds_of, these.step) for name, these in steps.items()},
            baseline="all weights",
            unit="seconds",
            higher_is_better=False,
        )
    with tempfile.TemporaryDirectory() as folder:
        seconds, size = save_seconds(folder, adapted, steps["adapters"].optimizer)
    base = 4 * full.config.num_parameters
    print(f"a save: {seconds:.3f} s, {size / 1e6:.2f} MB, {size / base:.2%} of the base")


if __name__ == "__main__":
    main()
