"""
    python -m bench.train_step          # on a CPU: the demo's model; --model gpt2 for 124M

Tokens per second of our training loop against a bare loop of the same model: no logging, no
loader, no votes, all logits at once, products as torch makes them. Each figure comes from a fresh
process, because the setting of malloc lasts for a process's life; contenders take turns. HF Trainer and
TRL stand beside it where `accelerate` and `trl` are installed, with Hugging Face's own GPT-2 of the same
shape.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bench.common import parser, report
from instruct_core import ranks
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.batches import MicroBatch
from instruct_core.data.order import sample_at
from instruct_core.model.attention import row_mask
from instruct_core.model.families import build
from instruct_core.model.products import best_library, products_by
from instruct_core.storage.store import Store
from instruct_core.train.optimizer import make_optimizer
from instruct_core.train.progress import Setup, StepReport
from instruct_core.train.trainer import Trainer
from jobs.world import keep_freed_memory

Sequences = NDArray[np.uint64]
WARMUP_STEPS = 4
STEPS = 12


class Batches:
    """Packed rows of random words, the same for everybody; stands in for the shards."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config

    def __len__(self) -> int:
        return 1000

    def at(self, positions: Sequences, seed: int) -> Sequences:
        return sample_at(positions, len(self), seed)

    def micro_batch(self, sequences: Sequences) -> MicroBatch:
        shape = (len(sequences), self._config.seq_len)
        draw = np.random.default_rng(int(sequences[0]))
        tokens = draw.integers(0, 50257, shape)
        row_ids = np.broadcast_to(np.arange(shape[1]) // 64, shape).astype(np.int32)
        positions = np.broadcast_to(np.arange(shape[1]) % 64, shape).astype(np.int64)
        return MicroBatch(tokens, np.roll(tokens, -1, axis=1), positions, row_ids)


def run_ours(config: TrainConfig, folder: str = "") -> float:
    """Return steps a second of our trainer, on rank 0; ranks are given the folder they all save in."""
    model = build(PRESETS[config.model], config.dropout)
    model.initialize(1)
    stamps: list[float] = []

    def on_step(step_report: StepReport) -> None:
        stamps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as own:
        checkpoints = Checkpoints(Store(folder or own))
        checkpoints.claim_attempt()
        batches: Any = Batches(config)
        nothing: Any = []
        setup = Setup(
            model=model, device=torch.device("cpu"), train=batches, val=nothing, val_rows=nothing,
            checkpoints=checkpoints, facts={}, config_file={}, stop=lambda: False,
            working=lambda phase: None, on_event=lambda event: None, on_step=on_step,
            on_samples=lambda step, samples: None, on_read=lambda step, samples: None,
        )  # fmt: skip
        trainer = Trainer(config, setup, None)
        trainer._saves.finish = lambda step, stop: None  # type: ignore[method-assign]  # see bench/checkpoint.py
        with products_by(best_library()):
            trainer.run()
    if ranks.rank():  # which is told of no step
        return 0.0
    return (len(stamps) - WARMUP_STEPS) / (stamps[-1] - stamps[WARMUP_STEPS - 1])


def run_bare(config: TrainConfig) -> float:
    model = build(PRESETS[config.model])
    model.initialize(1)
    if config.compile:
        model.compile()
    optimizer = make_optimizer(model, config)
    batch = Batches(config).micro_batch(np.zeros(config.micro_batch_size, np.uint64))
    tokens, targets, positions, row_ids = (torch.from_numpy(array) for array in batch)
    for step in range(WARMUP_STEPS + STEPS):
        if step == WARMUP_STEPS:
            started_at = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, config.precision == "bf16"):
            logits = model.logits(model(tokens, positions, row_mask(row_ids)))
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return STEPS / (time.perf_counter() - started_at)


def run_hugging_face(config: TrainConfig, library: str) -> float:
    import transformers
    from transformers import GPT2Config, GPT2LMHeadModel

    stamps: list[float] = []

    class Stamp(transformers.TrainerCallback):  # type: ignore[misc]  # not typed
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            stamps.append(time.perf_counter())

    model = GPT2LMHeadModel(GPT2Config(**PRESETS[config.model].hugging_face))
    num_rows = config.micro_batch_size * (WARMUP_STEPS + STEPS)
    rows = torch.randint(0, 50257, (num_rows, config.seq_len)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "output_dir": folder, "per_device_train_batch_size": config.micro_batch_size, "max_steps": 16,
            "bf16": config.precision == "bf16", "use_cpu": True, "report_to": [], "save_strategy": "no",
            "logging_strategy": "no", "disable_tqdm": True, "torch_compile": config.compile,
        }  # fmt: skip
        if library == "trl":
            import datasets
            import trl

            trainer: Any = trl.SFTTrainer(
                model=model,
                args=trl.SFTConfig(**settings, gradient_checkpointing=False),
                train_dataset=datasets.Dataset.from_dict({"input_ids": rows}),
                processing_class=_tokenizer(),
                callbacks=[Stamp()],
            )
        else:
            data: Any = [{"input_ids": row, "labels": row} for row in rows]
            trainer = transformers.Trainer(
                model=model,
                args=transformers.TrainingArguments(**settings),
                train_dataset=data,
                data_collator=transformers.default_data_collator,
                callbacks=[Stamp()],
            )
        trainer.train()
    return STEPS / (stamps[-1] - stamps[-STEPS - 1])


def _tokenizer() -> Any:
    from transformers import GPT2TokenizerFast

    from instruct_core.data.gpt2_tokenizer import merges_path

    folder = merges_path().parent
    return GPT2TokenizerFast(
        vocab_file=str(folder / "encoder.json"),
        merges_file=str(folder / "vocab.bpe"),
        pad_token="<|endoftext|>",
    )


def contenders(arguments: argparse.Namespace) -> Iterator[str]:
    for compiled in (False, True):
        suffix = ", compiled" if compiled else ""
        yield f"bare loop{suffix}"
        yield f"ours{suffix}"
        if not compiled:
            yield "bare loop, glibc's malloc"
            yield "ours, glibc's malloc"
    for library in ("accelerate", "trl"):
        if find_spec(library):
            yield {"accelerate": "HF Trainer", "trl": "TRL"}[library]
        else:
            print(f"{library} is not installed: its contender is left out", file=sys.stderr)


def run_child(arguments: argparse.Namespace) -> None:
    """Run one contender in this process, and print its tokens per second."""
    name = arguments.contender
    torch.set_num_threads(arguments.threads)
    config = TrainConfig(
        "bench", "", "", "", "random", arguments.model, "", max_steps=WARMUP_STEPS + STEPS,
        seq_len=arguments.seq_len, micro_batch_size=arguments.micro_batch_size,
        tokens_per_step=arguments.micro_batch_size * arguments.seq_len, eval_every=10**6,
        save_every=10**6, precision=arguments.precision, compile="compiled" in name,
    )  # fmt: skip
    if "glibc" not in name:
        keep_freed_memory()
    if name.startswith("ours"):
        steps_per_second = run_ours(config)
    elif name.startswith("bare"):
        steps_per_second = run_bare(config)
    else:
        steps_per_second = run_hugging_face(config, "trl" if name == "TRL" else "accelerate")
    print(json.dumps({"tokens_per_second": steps_per_second * config.tokens_per_step}))


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--model", default="small-demo")
    flags.add_argument("--seq-len", type=int, default=256)
    flags.add_argument("--micro-batch-size", type=int, default=4)
    flags.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    if arguments.contender:
        run_child(arguments)
        return

    def run(name: str) -> float:
        command = [sys.executable, "-m", "bench.train_step", *sys.argv[1:], "--contender", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
        output = done.stdout
        return float(json.loads(output.splitlines()[-1])["tokens_per_second"])

    names = list(contenders(arguments))
    report(
        f"train_step {arguments.model}",
        {name: partial(run, name) for name in names},
        baseline="bare loop",
        unit="tokens_per_second",
    )


if __name__ == "__main__":
    main()
