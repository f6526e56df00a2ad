"""A trainer with its surroundings, on one rank, and how its numbers go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.batches import LossOn, SampleReader
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.events import Event
from instruct_core.model.gpt2 import GPT2
from instruct_core.storage.store import Store
from instruct_core.train.progress import Setup, StepReport
from instruct_core.train.trainer import Trainer
from instruct_core.train.wishes import Wishes

CONFIG = TrainConfig(
    "r", "s", "c", "t", "random", "tiny", "f", max_steps=4, seq_len=64, micro_batch_size=2,
    tokens_per_step=256, learning_rate=1e-3, warmup_steps=0, eval_every=2, save_every=2,
)  # fmt: skip


TINY = replace(PRESETS["tiny"], vocab_size=1000)


class Desk:
    """A trainer's surroundings, with all it reported."""

    def __init__(self, folder: Path, shard_set: Path) -> None:
        self.events: list[Event] = []
        self.reports: list[StepReport] = []
        self.model = GPT2(TINY)
        self.model.initialize(1)
        self.stop: Callable[[], bool] = lambda: False
        self.wishes: Callable[[], Wishes] = Wishes
        self.done: list[tuple[str, int]] = []
        self.phases: list[str] = []
        self.told_in: list[tuple[type[Event], str]] = []
        self.checkpoints = Checkpoints(Store(folder))
        self.checkpoints.claim_attempt()
        self.readers = {}
        for split in ("train", "val"):
            rows = ShardSet(Store(shard_set), split)
            self.readers[split] = SampleReader(rows, pack(rows.lengths(), 64, 1), "all")
        self.val_rows = ShardSet(Store(shard_set), "val")

    def learn(self, loss_on: LossOn) -> None:
        """Learn all tokens, or those of responses."""
        reader = self.readers["train"]
        self.readers["train"] = SampleReader(reader._rows, reader._packing, loss_on)

    def on_event(self, event: Event) -> None:
        """Take what the trainer tells, and in which phase."""
        self.events.append(event)
        self.told_in.append((type(event), self.phases[-1]))

    def trainer(self, config: TrainConfig) -> Trainer:
        setup = Setup(
            model=self.model,
            device=torch.device("cpu"),
            train=self.readers["train"],
            val=self.readers["val"],
            val_rows=self.val_rows,
            checkpoints=self.checkpoints,
            facts={},
            config_file={},
            stop=lambda: self.stop(),  # noqa: PLW0108  a test may replace it
            working=self.phases.append,
            on_event=self.on_event,
            on_step=self.reports.append,
            on_samples=lambda step, samples: None,
            on_read=lambda step, samples: None,
            wishes=lambda: self.wishes(),  # noqa: PLW0108
            on_wish=lambda wish, step: self.done.append((wish, step)),
        )
        return Trainer(config, setup, load_newest(self.checkpoints))


def poison(model: GPT2, steps: set[int]) -> None:
    """Make the gradient of some steps not finite."""
    calls = iter(range(10**6))

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan") if next(calls) in steps else gradient

    model.transformer.ln_f.bias.register_hook(hook)
