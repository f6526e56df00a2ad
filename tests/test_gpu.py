"""
What only a GPU can break: its random generator, its sums, copies that run beside its kernels.

Each test trains with the launcher that a person uses. Where there is no GPU, all are skipped.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from instruct_core.answers.generation import generate
from instruct_core.checkpoints.manifest import Scale, manifest_in
from instruct_core.config import PRESETS
from instruct_core.data.batches import SampleReader
from instruct_core.data.packing import pack
from instruct_core.data.shards import ShardSet
from instruct_core.model.families import build
from instruct_core.model.family import Recording
from instruct_core.model.gpt2 import GPT2
from instruct_core.model.step import record_on_gpu
from instruct_core.model.weights import ready
from instruct_core.recipe import Kept
from instruct_core.storage.store import Store
from instruct_core.train.loss import WithLoss, on_device
from tests.conftest import (
    REPO,
    environment,
    events_of,
    hashes_of,
    last_read_step,
    launch,
    rank_pids,
    start,
    wait_for,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")

STEPS = 40
FLAGS = [
    "--run=r", "--gpus=1", f"--max-steps={STEPS}", "--model=small-demo", "--init=random",
    "--seq-len=256", "--tokens-per-step=4096", "--micro-batch-size=4", "--dropout=0.1",
    "--eval-every=20", "--save-every=10", "--record-samples",
]  # fmt: skip
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def train(cwd: Path, shards: Path, *more: str) -> Path:
    cwd.mkdir()
    result = launch("finetune", f"--shards={shards}", *FLAGS, *more, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd


def checkpoint_hashes(cwd: Path, step: int = STEPS) -> dict[str, str]:
    return hashes_of(cwd / "checkpoints_instruct" / "r", step)


def scale_of(cwd: Path) -> Scale | None:
    store = Store(cwd / "checkpoints_instruct" / "r")
    return manifest_in(store / f"step-{STEPS:08d}").loss_scale


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shard_set: Path) -> Path:
    return train(tmp_path_factory.mktemp("gpu") / "undisturbed", shard_set)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--dropout=0",),
        ("--dropout=0", "--compile"),
        ("--precision=fp16",),
        ("--dropout=0", "--compile", "--precision=fp16"),
    ],
    ids=["dropout", "rows by their starts", "compiled", "float16", "float16, compiled"],
)
def test_interrupted_run_ends_like_an_undisturbed_one_bit_for_bit(
    undisturbed: Path, tmp_path: Path, shard_set: Path, more: tuple[str, ...]
) -> None:
    expected = train(tmp_path / "whole", shard_set, *more) if more else undisturbed
    cwd = tmp_path / "hit"
    cwd.mkdir()
    run = cwd / "runs_instruct" / "r"
    seed = int.from_bytes(os.urandom(4), "little")
    draw = random.Random(seed)
    print(f"seed {seed}")

    launcher = start("finetune", f"--shards={shard_set}", *FLAGS, *more, cwd=cwd)
    for number, signum in enumerate((signal.SIGUSR2, signal.SIGKILL), 1):
        wanted = number * 12 + draw.randrange(6)
        wait_for(lambda w=wanted: last_read_step(run) >= w or launcher.poll() is not None, "it")
        os.kill(rank_pids(run)[0], signum)
        wait_for(
            lambda n=number: (
                sum(e["event"] == "resumed" for e in events_of(run)) > n
                or launcher.poll() is not None
            ),
            "the resume",
        )
    _, errors = launcher.communicate(timeout=200)

    assert launcher.returncode == 0, errors
    assert sum(event["event"] == "resumed" for event in events_of(run)) == 3
    assert checkpoint_hashes(cwd) == checkpoint_hashes(expected)
    assert scale_of(cwd) == scale_of(expected)


def test_save_beside_the_next_step_holds_what_was_there_before_it(
    undisturbed: Path, tmp_path: Path, shard_set: Path
) -> None:
    plain = train(tmp_path / "plain", shard_set, "--no-async-save")

    for step in (STEPS - 20, STEPS - 10, STEPS):
        assert checkpoint_hashes(undisturbed, step) == checkpoint_hashes(plain, step)


def test_checkpoint_holds_the_random_generator_of_the_gpu(undisturbed: Path) -> None:
    [path] = (undisturbed / "checkpoints_instruct" / "r" / f"step-{STEPS:08d}").glob("state*")

    assert load_file(path)["rng/cuda"].numel() > 0


def test_rows_by_their_starts_have_the_loss_and_gradients_that_a_mask_gives(
    shard_set: Path,
) -> None:
    rows = ShardSet(Store(shard_set), "train")
    reader = SampleReader(rows, pack(rows.lengths(), 256, seed=1), "all")
    model = GPT2(PRESETS["small-demo"])
    model.initialize(1)
    with_loss = WithLoss(model.to("cuda"))
    batch = on_device(reader.micro_batch(np.arange(4, dtype=np.uint64)), torch.device("cuda"))
    if batch.row_starts is None:
        pytest.skip("this GPU goes by a mask")
    results = []
    for arguments, precision in ((batch, 16), (batch[:4], 16), (batch, 32)):
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == 16):
            loss = with_loss(*arguments)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((loss.item(), gradient))

    (by_starts, gradient), (by_mask, masked_gradient), (exact, exact_gradient) = results

    assert abs(by_starts - exact) < 1e-3 * exact
    assert abs(by_mask - exact) < 1e-3 * exact
    off = (gradient - exact_gradient).norm() / exact_gradient.norm()
    assert off < 1.2 * (masked_gradient - exact_gradient).norm() / exact_gradient.norm()


def test_curves_show_the_gpu(undisturbed: Path) -> None:
    events = EventAccumulator(str(undisturbed / "runs_instruct" / "r"))
    events.Reload()
    tags = set(events.Tags()["scalars"])

    assert {"system/gpu_memory_gb", "system/gpu_percent"} <= tags
    if any(name in torch.cuda.get_device_name() for name in ("H100", "H200", "A100")):
        assert 0 < events.Scalars("train/mfu")[-1].value < 1


def test_model_of_the_gpu_answers_without_one_too(undisturbed: Path) -> None:
    answers = []
    for env in ({}, WITHOUT_GPU):
        said = subprocess.run(
            [sys.executable, str(REPO / "launch" / "chat.py"), "--run=r", "--prompt=Say number 3.",
             "--max-new-tokens=16", "--temperature=0", "--json"],
            cwd=undisturbed, env=environment() | env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        answers.append(json.loads(said.stdout)["response"])

    assert answers[0] == answers[1]


@pytest.mark.parametrize("kept", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("shape", ["small-demo", "tiny-llama"])
def test_repeated_steps_of_the_gpu_are_those_that_it_records(shape: str, kept: Kept) -> None:
    if kept == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no bf16")
    model = build(PRESETS[shape])
    model.initialize(1)
    draw = np.random.default_rng(1)
    batch = [draw.integers(50000, size=draw.integers(1, 40)).tolist() for _ in range(40)]

    def made_again(step: Callable[[], Tensor]) -> Recording:
        result = step().clone()
        return Recording(lambda: result.copy_(step()), result)

    answers, recorder = [], ready(model, kept=kept).recorder
    for how in (made_again, recorder):
        model.recorder = how
        answers.append(generate(model, batch, side_by_side=16, max_new_tokens=120))

    assert model.recorder is recorder is record_on_gpu, "it could repeat them"
    assert answers[0] == answers[1]


def test_gpu_run_goes_on_without_one(undisturbed: Path, shard_set: Path) -> None:
    flags = [flag for flag in FLAGS if not flag.startswith("--max-steps")]
    result = subprocess.run(
        [sys.executable, str(REPO / "launch" / "finetune.py"), f"--shards={shard_set}", *flags,
         f"--max-steps={STEPS + 2}"],
        cwd=undisturbed, env=environment() | WITHOUT_GPU, capture_output=True, text=True,
        check=False, timeout=200,
    )  # fmt: skip

    assert result.returncode == 0, result.stderr
    assert events_of(undisturbed / "runs_instruct" / "r")[-1]["step"] == STEPS + 2
