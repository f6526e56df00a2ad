"""
    python -m bench.resume

Seconds from the start of a process to the end of its first step after a resume, 124M parameters
with AdamW's state: our job as the controller starts it, against a bare script that imports torch,
reads the same bytes and makes the same step. Both print where the time went. The seek is timed at
positions far apart: it must not depend on how much was read before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench.common import parser, report

START = float(os.environ.get("BENCH_STARTED_AT", "0"))
STEP = 3
SEQ_LEN = 64


def stamp(stamps: dict[str, float], name: str) -> None:
    """Note the seconds since the process was started."""
    stamps[name] = round(time.time() - START, 3)


def run_ours(desk: Path) -> None:
    """Resume as a job does, and stop at the end of the first step."""
    stamps: dict[str, float] = {}
    import submitit.core._submit  # noqa: F401  what the executor's own start imports

    from instruct_core.config import from_json
    from instruct_core.storage.documents import load_document
    from instruct_core.storage.store import Store
    from jobs.finetune import FinetuneJob

    config = from_json(load_document(Store(desk / "c" / "r"), "run.json")["config"], "run.json")
    from instruct_core.train.trainer import Trainer
    from jobs import attempt as training

    stamp(stamps, "imports")
    load, step = training.load_newest, Trainer._begin_step

    def load_newest(*args: Any, **options: Any) -> Any:
        stamp(stamps, "process group and data")
        loaded = load(*args, **options)
        stamp(stamps, "load")
        return loaded

    def begin_step(self: Any, *args: Any) -> Any:
        stamp(stamps, "model and seek")
        values = step(self, *args)
        stamp(stamps, "first step")
        print(json.dumps(stamps), flush=True)
        os._exit(0)
        return values

    training.load_newest = load_newest
    Trainer._begin_step = begin_step  # type: ignore[assignment, method-assign]
    FinetuneJob(config, "bench")()


def run_bare(desk: Path) -> None:
    """Do the same with nothing around it: no checks, no ledger, no data set."""
    stamps: dict[str, float] = {}
    import torch

    from instruct_core.config import PRESETS
    from instruct_core.model.families import build
    from instruct_core.storage.tensor_file import parse_header

    stamp(stamps, "imports")
    folder = desk / "c" / "r" / f"step-{STEP:08d}"
    tensors = {}
    for name in ("model.safetensors", "state-00000-of-00001.safetensors"):
        data = torch.empty((folder / name).stat().st_size, dtype=torch.uint8)
        with (folder / name).open("rb", buffering=0) as file:
            file.readinto(data.numpy().data)
        places, _ = parse_header(data.numpy(), name)
        for key, place in places.items():
            if place.dtype == "F32":
                part = data[place.start : place.stop].view(torch.float32)
                tensors[key] = part.view(place.shape)
    stamp(stamps, "load")
    model = build(PRESETS["gpt2"])
    names = list(model.state_dict())
    model.load_state_dict({name: tensors[name] for name in names}, assign=True)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_()
        kinds = ("exp_avg", "exp_avg_sq", "step")
        optimizer.state[parameter] = {k: tensors[f"optimizer/{k}/{name}"] for k in kinds}
    stamp(stamps, "model and seek")
    tokens = torch.zeros((1, SEQ_LEN), dtype=torch.int64)
    logits = model.logits(model(tokens, torch.arange(SEQ_LEN)[None], None))
    torch.nn.functional.cross_entropy(logits[0], tokens[0]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    stamp(stamps, "first step")
    print(json.dumps(stamps), flush=True)
    os._exit(0)


def make_checkpoint(desk: Path) -> None:
    """Train three steps with the launcher, so that there is something to resume."""
    launch = Path(__file__).resolve().parent.parent / "launch"
    rows = [{"instruction": f"Count to {n}.", "output": "one two three " * 9} for n in range(400)]
    (desk / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    for verb, flags in (
        ("preprocess", "--source rows.jsonl --out s --num-tasks 1"),
        ("finetune", f"--run r --shards s --model gpt2 --init random --checkpoints c --runs t "
                     f"--seq-len {SEQ_LEN} --micro-batch-size 1 --tokens-per-step {SEQ_LEN} "
                     f"--max-steps {STEP} --eval-every 1000"),
    ):  # fmt: skip
        command = [sys.executable, str(launch / f"{verb}.py"), *flags.split()]
        subprocess.run(command, cwd=desk, check=True, stdout=subprocess.DEVNULL)
    document = json.loads((desk / "c" / "r" / "run.json").read_text(encoding="utf-8"))
    document["config"]["max_steps"] = 1000
    (desk / "c" / "r" / "run.json").write_text(json.dumps(document), encoding="utf-8")


def seek_seconds() -> None:
    """Print how long it takes to know a step's samples, at positions from 0 to 10^12."""
    import numpy as np

    from bench.common import machine
    from instruct_core.data.order import sample_at

    for position in (0, 10**6, 10**12):
        started_at = time.perf_counter()
        sample_at(position + np.arange(64, dtype=np.uint64), 1_000_000, seed=1337)
        seconds = time.perf_counter() - started_at
        line = {"bench": "seek", "position": position, "seconds": round(seconds, 6)}
        print(json.dumps(line | {"machine": machine()}), flush=True)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--contender", choices=("ours", "bare"), help=argparse.SUPPRESS)
    flags.add_argument("--desk", type=Path, help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    if arguments.contender:
        (run_ours if arguments.contender == "ours" else run_bare)(arguments.desk)
        return
    with tempfile.TemporaryDirectory() as folder:
        desk = Path(folder)
        make_checkpoint(desk)
        (desk / "job").mkdir()

        def run(contender: str) -> float:
            env = os.environ | {
                "BENCH_STARTED_AT": str(time.time()),
                "SUBMITIT_EXECUTOR": "local",
                "SUBMITIT_LOCAL_JOB_ID": "1",
                "SUBMITIT_FOLDER": str(desk / "job"),
                "INSTRUCT_JOB": str(desk / "job"),
                "INSTRUCT_START": "0000",
            }
            command = [
                sys.executable,
                "-m",
                "bench.resume",
                "--contender",
                contender,
                "--desk",
                folder,
            ]
            output = subprocess.run(
                command, env=env, check=True, stdout=subprocess.PIPE, encoding="utf-8"
            ).stdout
            stamps = json.loads(output.splitlines()[-1])
            print(json.dumps({"bench": "resume", "contender": contender, "until": stamps}))
            return float(stamps["first step"])

        report(
            "resume",
            {name: partial(run, name) for name in ("bare", "ours")},
            baseline="bare",
            unit="seconds",
            higher_is_better=False,
        )
    seek_seconds()


if __name__ == "__main__":
    main()
