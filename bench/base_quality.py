"""
    python -m bench.base_quality        # after bench.smollm2, whose base and shards it takes

What loss on all tokens and loss on responses alone do to a base that knows its language: adapters of
SmolLM2-135M-Instruct on `builtin`, the same rows in the same order for both, some seeds. Both are judged
alike, on rows that nobody trained on: mean loss per token of all of them, and of responses alone. What
was found is kept beside the shards: a second call with the same flags does what is left.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import machine, parser
from bench.quality import rounded, summary
from bench.smollm2_folder import PLACE, model_folder
from instruct_core.config import TrainConfig
from instruct_core.data.batches import IGNORED, SampleReader
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.evaluation.perplexity import split_losses
from instruct_core.model.family import Model
from instruct_core.recipe import LossOn
from instruct_core.storage.store import Store
from instruct_core.train.beginning import begin
from instruct_core.train.loss import WithLoss
from instruct_core.train.optimizer import make_optimizer
from instruct_core.train.schedule import learning_rate_at
from jobs.world import keep_freed_memory

CONTENDERS: tuple[LossOn, ...] = ("all", "response")


def main() -> None:
    flags = parse_flags()
    keep_freed_memory()
    shards, base = Store(flags.place / "shards"), str(model_folder(flags.place).resolve())
    path = flags.place / "base-quality.jsonl"
    path.touch()
    known = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    asked = {"steps": flags.steps, "batch_size": flags.batch_size, "rate": flags.learning_rate}
    for seed in flags.seeds:
        for loss_on in CONTENDERS:
            which = {**asked, "loss_on": loss_on, "seed": seed}
            if any(which.items() <= run.items() for run in known):
                continue
            config = config_of(flags, base, seed, loss_on)
            model = train(config, shards)
            known.append(which | rounded(judge(model, config, shards)))
            print(json.dumps(known[-1]), flush=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[-1]) + "\n")
    show([run for run in known if asked.items() <= run.items()])


def show(runs: list[dict[str, Any]]) -> None:
    """Print what both contenders come to over the seeds, and how far apart they are in each."""
    by_seed = {(run["loss_on"], run["seed"]): run for run in runs}
    seeds = [seed for loss_on, seed in by_seed if loss_on == "all"]
    for name in ("loss", "response_loss"):
        figures: dict[str, list[float]] = {
            loss_on: [by_seed[loss_on, seed][name] for seed in seeds] for loss_on in CONTENDERS
        }
        figures["all minus response"] = [
            one - other for one, other in zip(*figures.values(), strict=True)
        ]
        for what, values in figures.items():
            line = {"bench": f"base quality/{name}", "contender": what, "seeds": len(seeds)}
            print(json.dumps(line | summary(values) | {"machine": machine()}), flush=True)


def parse_flags() -> argparse.Namespace:
    flags = parser(__doc__)
    add = flags.add_argument
    add("--place", type=Path, default=PLACE, help="of the model and its shards")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of adapters and order")
    add("--steps", type=int, default=16, help="optimizer steps of each run")
    add("--seq-len", type=int, default=128, help="tokens of a sequence")
    add("--batch-size", type=int, default=2, help="sequences of a step")
    add("--learning-rate", type=float, default=1e-3, help="peak, after a warmup of two steps")
    return flags.parse_args()


def config_of(flags: argparse.Namespace, base: str, seed: int, loss_on: LossOn) -> TrainConfig:
    """Return the settings of one run."""
    return TrainConfig(
        "bench", "", "", "", base, "", "", max_steps=flags.steps, decay_steps=flags.steps,
        warmup_steps=2, learning_rate=flags.learning_rate, min_learning_rate=flags.learning_rate / 10,
        seq_len=flags.seq_len, micro_batch_size=flags.batch_size, seed=seed, loss_on=loss_on,
        tokens_per_step=flags.batch_size * flags.seq_len, lora=8, lora_alpha=16.0,
        lora_targets="q_proj,v_proj", precision="bf16",
    )  # fmt: skip


def train(config: TrainConfig, shards: Store) -> Model:
    """Return the base with adapters that were trained."""
    rows = ShardSet(shards, "train")
    packing = pack(rows.lengths(), config.seq_len, config.seed, rows.long_rows)
    reader = SampleReader(rows, packing, config.loss_on)
    model = begin(config, None).model
    optimizer, core = make_optimizer(model, config), WithLoss(model)
    for step in range(config.max_steps):
        slots = np.arange(config.micro_batch_size, dtype=np.uint64)
        first = np.uint64(step * config.micro_batch_size)
        batch = reader.micro_batch(reader.at(first + slots, config.seed))
        tensors = [torch.from_numpy(array) for array in batch]
        with torch.autocast("cpu", torch.bfloat16):
            loss = core(*tensors)
        (loss / max(1, int((batch.targets != IGNORED).sum()))).backward()
        torch.nn.utils.clip_grad_norm_(core.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, config)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def judge(model: Model, config: TrainConfig, shards: Store) -> dict[str, float]:
    """Return the losses on the rows that validate."""
    rows = ShardSet(shards, "val")
    packing = pack(rows.lengths(), config.seq_len, config.seed, rows.long_rows)
    with torch.autocast("cpu", torch.bfloat16):
        losses = split_losses(model, rows, packing)
    return {"loss": losses.all.mean, "response_loss": losses.response.mean}


if __name__ == "__main__":
    main()
