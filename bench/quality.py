"""
    python -m bench.quality              # some twelve minutes on one thread; --steps 20 for a look

What two choices of the recipe do to the model rather than to its speed: loss on all tokens or on
those of responses alone, and rows packed together or one a sequence. Every contender trains from
random weights on `builtin` with our own trainer, a few seeds each, and all are judged in one way:
mean loss per token over the whole validation split, on all tokens and on those of responses, each
row alone in its sequence. Differences to the first contender are taken seed by seed: one seed draws
the same weights for all.

A run of `padded` reads the pieces of rows that `packed` reads, each in a sequence of its own, and as
many of their tokens: a step takes pieces, in an order of their own, until the run has had as many
tokens as the packed one, to the nearest piece; sequences it does not need stay empty.
`padded-same-rows` takes the pieces of each packed step instead, with the first seed: only rounding
is left. Places of a batch that hold padding in all its sequences are cut off, which changes nothing
but the time.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common import machine, parser
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.batches import MicroBatch, SampleReader
from instruct_core.data.order import sample_at
from instruct_core.data.packing import Packing, pack
from instruct_core.data.shards import ShardSet
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.recipe import LossOn
from instruct_core.storage.store import Store
from instruct_core.train.loss import WithLoss
from instruct_core.train.progress import Setup, StepReport
from instruct_core.train.trainer import Trainer
from instruct_core.train.validation import validation_loss
from jobs.world import keep_freed_memory

REPO = Path(__file__).resolve().parent.parent
PADDED_BATCH = 8  # sequences per forward where each holds one piece
EMPTY = -1  # stands for the piece of a sequence that has none

Integers = NDArray[np.int64]  # most often pieces of a packing, by number


class Contender(NamedTuple):
    """How a run reads its rows."""

    loss_on: LossOn
    rows: Literal["packed", "padded", "padded as packed"]


CONTENDERS = {
    "packed": Contender("all", "packed"),
    "packed-responses": Contender("response", "packed"),
    "padded": Contender("all", "padded"),
    "padded-same-rows": Contender("all", "padded as packed"),
}
CHECK = "padded-same-rows"  # differs by rounding alone: one seed shows it


class Trimmed(SampleReader):
    """Sequences without the places at the end of a batch that no piece reaches."""

    def micro_batch(self, sequences: NDArray[np.uint64]) -> MicroBatch:
        batch = super().micro_batch(sequences)
        longest = max(1, int((batch.row_ids >= 0).sum(axis=1).max()))
        return MicroBatch(
            batch.tokens[:, :longest],
            batch.targets[:, :longest],
            batch.positions[:, :longest],
            batch.row_ids[:, :longest],
        )


def packed_steps(packing: Packing, config: TrainConfig) -> list[Integers]:
    """Return which pieces the trainer reads at each step of a packed run."""
    slots = np.arange(config.max_steps * config.global_batch_size, dtype=np.uint64)
    sequences = sample_at(slots, packing.num_sequences, config.seed)
    steps = sequences.astype(np.int64).reshape(config.max_steps, -1)
    starts = packing.sequence_starts
    return [np.concatenate([np.arange(*starts[s : s + 2]) for s in step]) for step in steps]


def steps_of_as_many_tokens(packing: Packing, tokens: Integers, seed: int) -> list[Integers]:
    """Return pieces in an order of their own, cut into steps of as many tokens in all as given."""
    totals = np.cumsum(tokens)
    epochs = -(-int(totals[-1]) // int(packing.lengths.sum()))
    slots = np.arange(epochs * len(packing.rows), dtype=np.uint64)
    order = sample_at(slots, len(packing.rows), seed).astype(np.int64)
    middles = np.cumsum(packing.lengths[order]) - packing.lengths[order] / 2
    return np.split(order, np.searchsorted(middles, totals))[: len(totals)]


def tokens_of(packing: Packing, steps: Sequence[Integers]) -> Integers:
    """Return how many tokens each step holds."""
    return np.array([packing.lengths[pieces].sum() for pieces in steps])


def one_a_sequence(packing: Packing, pieces: Integers) -> Packing:
    """Return sequences of one piece each, or of none."""
    there = pieces != EMPTY
    return Packing(
        packing.rows[pieces[there]],
        packing.starts[pieces[there]],
        packing.lengths[pieces[there]],
        np.concatenate([np.zeros(1, np.int64), np.cumsum(there)]),
        packing.seq_len,
    )


def longest_first(packing: Packing, pieces: Integers) -> Integers:
    """Return pieces in an order in which little of a batch is padding."""
    return pieces[np.argsort(-packing.lengths[pieces], kind="stable")]


def padded(packing: Packing, steps: Sequence[Integers], seed: int) -> Packing:
    """Return the packing whose samples the trainer reads, in its own order, as these steps."""
    room = -(-max(len(pieces) for pieces in steps) // PADDED_BATCH) * PADDED_BATCH
    read = np.full((len(steps), room), EMPTY)
    for slots, pieces in zip(read, steps, strict=True):
        slots[: len(pieces)] = longest_first(packing, pieces)
    pieces_of_sequences = np.empty(read.size, np.int64)
    order = sample_at(np.arange(read.size, dtype=np.uint64), read.size, seed)
    pieces_of_sequences[order] = read.ravel()
    return one_a_sequence(packing, pieces_of_sequences)


def train(contender: Contender, config: TrainConfig, shards: Store) -> tuple[Model, dict[str, Any]]:
    """Return a contender's model, trained from random weights, and what it has read."""
    rows = ShardSet(shards, "train")
    packing = pack(rows.lengths(), config.seq_len, config.seed)
    steps = packed_steps(packing, config)
    tokens = tokens_of(packing, steps)
    samples = packing
    if contender.rows != "packed":
        if contender.rows == "padded":
            steps = steps_of_as_many_tokens(packing, tokens, config.seed)
        samples = padded(packing, steps, config.seed)
        places = samples.num_sequences // config.max_steps * config.seq_len
        config = replace(config, tokens_per_step=places, micro_batch_size=PADDED_BATCH)
    model = build(PRESETS[config.model])
    model.initialize(config.seed)
    reports: list[StepReport] = []
    with tempfile.TemporaryDirectory() as folder:
        nothing: Any = []
        setup = Setup(
            model=model, device=torch.device("cpu"), val=nothing, val_rows=nothing, facts={},
            config_file={},
            train=Trimmed(rows, samples, contender.loss_on), checkpoints=Checkpoints(Store(folder)),
            stop=lambda: False, working=lambda phase: None, on_step=reports.append,
            on_event=lambda event: None, on_samples=lambda step, samples: None,
            on_read=lambda step, samples: None,
        )  # fmt: skip
        trainer = Trainer(config, setup, None)
        trainer._saves.finish = lambda step, stop: None  # type: ignore[method-assign]  # nothing to resume
        trainer.run()
    own_tokens = tokens_of(packing, steps)
    return model, {
        "tokens": int(own_tokens.sum()),
        "epochs": round(float(own_tokens.sum() / packing.lengths.sum()), 3),
        "tokens_off_packed_in_a_step": int(np.abs(own_tokens - tokens).max()),
        "loss_tokens": int(sum(report.values["train/loss_tokens"] for report in reports)),
    }


def judge(model: Model, shards: Store, seq_len: int) -> dict[str, float]:
    """Return losses and perplexities on the validation split, each row alone in its sequence."""
    rows = ShardSet(shards, "val")
    packing = pack(rows.lengths(), seq_len, seed=0)
    alone = one_a_sequence(packing, longest_first(packing, np.arange(len(packing.rows))))
    figures = {}
    kinds: tuple[tuple[str, LossOn], ...] = (("", "all"), ("response_", "response"))
    for prefix, loss_on in kinds:
        loss = validation_loss(
            WithLoss(model), Trimmed(rows, alone, loss_on), torch.device("cpu"), PADDED_BATCH,
            nullcontext(), stop=lambda: False,
        )  # fmt: skip
        assert loss is not None
        figures[f"{prefix}loss"] = loss
        figures[f"{prefix}perplexity"] = math.exp(loss)
    return figures


def rounded(figures: dict[str, float]) -> dict[str, float]:
    """Return figures with five digits that count."""
    return {name: float(f"{figure:.5g}") for name, figure in figures.items()}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return what the figures of all seeds come to."""
    return rounded({"mean": statistics.mean(values), "min": min(values), "max": max(values)})


def make_shards(folder: Path) -> Store:
    """Prepare `builtin` as a person does."""
    command = [
        sys.executable, str(REPO / "launch" / "preprocess.py"), "--source=builtin",
        f"--out={folder / 'shards'}", "--num-tasks=1", "--cluster=local",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Store(folder / "shards")


def parse_flags() -> argparse.Namespace:
    flags = parser(__doc__)
    add = flags.add_argument
    add("--steps", type=int, default=220, help="optimizer steps of each run")
    add("--seeds", type=int, default=3, help="runs of each contender: weights and order differ")
    add("--model", default="tiny", choices=PRESETS, help="preset of the shape, random weights")
    add("--seq-len", type=int, default=256, help="places of a sequence")
    add("--batch-size", type=int, default=2, help="packed sequences of a step")
    add("--learning-rate", type=float, default=5e-3, help="peak; cosine to a tenth of it")
    add("--warmup-steps", type=int, default=20, help="steps of linear warmup")
    add("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS, help="which run")
    add("--threads", type=int, default=1, help="threads of torch")
    return flags.parse_args()


def main() -> None:
    flags = parse_flags()
    torch.set_num_threads(flags.threads)
    keep_freed_memory()
    config = TrainConfig(
        "bench", "", "", "", "random", flags.model, "", max_steps=flags.steps,
        decay_steps=flags.steps, seq_len=flags.seq_len, micro_batch_size=flags.batch_size,
        tokens_per_step=flags.batch_size * flags.seq_len, learning_rate=flags.learning_rate,
        min_learning_rate=flags.learning_rate / 10, warmup_steps=flags.warmup_steps,
        eval_every=10**6, save_every=10**6,
    )  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {name: [] for name in flags.contenders}
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder))
        for seed in range(1, flags.seeds + 1):
            for name, runs in found.items():
                if name == CHECK and seed > 1:
                    continue
                model, read = train(CONTENDERS[name], replace(config, seed=seed), shards)
                runs.append(judge(model, shards, flags.seq_len))
                line: dict[str, Any] = {"bench": "quality run", "contender": name, "seed": seed}
                print(json.dumps(line | rounded(runs[-1]) | read), flush=True)
    baseline = flags.contenders[0]
    for name, runs in found.items():
        line = {"bench": f"quality {flags.model}", "contender": name}
        for key in runs[0]:
            line[key] = summary([run[key] for run in runs])
        for key in ("loss", "response_loss"):
            pairs = zip(runs, found[baseline], strict=False)
            line[f"{key}_minus_{baseline}"] = summary(
                [ours[key] - base[key] for ours, base in pairs]
            )
        line |= {"steps": flags.steps, "learning_rate": flags.learning_rate}
        line |= {"seeds": len(runs), "machine": machine()}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
