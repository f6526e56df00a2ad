"""A run that trains adapters, on real processes: bitwise resume, and every command that reads it."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest

from instruct_core.checkpoints.staging import direct_image
from instruct_core.config import PRESETS
from instruct_core.model.gpt2 import GPT2
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store
from tests.conftest import launch, start
from tests.tiny_runs import (
    arguments,
    checkpoint,
    count,
    final_hashes,
    hit_at,
    run_of,
    signal_a_rank,
    train,
)

LAST = 24
FLAGS = [
    "--lora=4", "--lora-targets=all", "--dropout=0.1", "--learning-rate=1e-2", f"--max-steps={LAST}",
    f"--decay-steps={LAST}",
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder, which nobody may change."""
    folder = tmp_path_factory.mktemp("base")
    model = GPT2(PRESETS["tiny"])
    model.initialize(seed=3)
    image = direct_image("model.safetensors", dict(model.state_dict()), {"format": "pt"})
    Store(folder).put(image.name, image.views)
    (folder / "config.json").write_bytes(dump_document(PRESETS["tiny"].hugging_face))
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shard_set: Path, base: Path) -> Path:
    cwd = tmp_path_factory.mktemp("undisturbed")
    train(cwd, shard_set, 2, f"--init={base}", *FLAGS)
    return cwd


def test_warned_and_killed_run_of_adapters_ends_with_the_bits_of_an_undisturbed_one(
    tmp_path: Path, shard_set: Path, base: Path, undisturbed: Path
) -> None:
    draw = random.Random(1)
    launcher = start("finetune", *arguments(shard_set, 2, f"--init={base}", *FLAGS), cwd=tmp_path)

    hit_at(launcher, tmp_path, 3, lambda cwd: signal_a_rank(cwd, signal.SIGUSR2, draw))
    hit_at(launcher, tmp_path, 12, lambda cwd: signal_a_rank(cwd, signal.SIGKILL, draw))
    _, errors = launcher.communicate(timeout=400)

    assert launcher.returncode == 0, errors
    assert count(tmp_path, "resumed") == 3
    assert final_hashes(tmp_path, LAST) == final_hashes(undisturbed, LAST)
    assert len(final_hashes(tmp_path, LAST)) == 4  # adapters, their settings, two ranks' states


def test_every_command_takes_a_step_of_adapters(undisturbed: Path, base: Path) -> None:
    said = launch(
        "chat", "--run=r", "--prompt=Hi.", "--max-new-tokens=4", "--json", cwd=undisturbed
    )
    exported = launch("checkpoints", "export", "r", "--out=adapter", cwd=undisturbed)
    merged = launch("checkpoints", "export", "r", "--out=merged", "--merge", cwd=undisturbed)
    verified = launch("checkpoints", "verify", "r", cwd=undisturbed)

    for done in (said, exported, merged, verified):
        assert done.returncode == 0, done.stderr
    assert json.loads(said.stdout)["new_tokens"] == 4
    assert f"loads it beside its base, {base}" in exported.stdout
    answers = [
        json.loads(
            launch(
                "chat", f"--checkpoint={place}", "--prompt=Hi.", "--max-new-tokens=4", "--json",
                cwd=undisturbed,
            ).stdout
        )["response"]
        for place in ("adapter", "merged")
    ]  # fmt: skip
    assert answers == [json.loads(said.stdout)["response"]] * 2


def test_run_whose_base_is_gone_is_one_line_before_anything_is_queued(
    undisturbed: Path, base: Path
) -> None:
    moved = base.rename(base.with_name("moved"))

    done = launch("finetune", "--run=r", f"--max-steps={LAST + 1}", cwd=undisturbed)

    moved.rename(base)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Base of run r cannot be loaded: ")
    assert f"ln -s WHERE_IT_IS {base}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not checkpoint(undisturbed, LAST + 1).exists()
    assert count(undisturbed, "started") == 1, run_of(undisturbed)


REFUSED = {
    "--lora=0": "--lora must be at least 1, got 0",
    "--lora=many": "--lora takes a whole number, got many",
    "--lora-alpha=8": "--lora-alpha needs --lora RANK, got 8.0 without",
    "--lora-targets=c_attn": "--lora-targets needs --lora RANK, got c_attn without",
    "--lora=100000": "--lora must be at most 32, the width of the base, got 100000",
    "--lora=4 --init=random": "--lora 4 adapts what a model knows, and random weights know nothing",
    "--lora=4 --lora-alpha=0": "--lora-alpha must be more than 0, got 0.0",
    "--lora=4 --lora-targets=q_proj": "--lora-targets must be all, or of c_attn, c_fc, c_proj with",
}


@pytest.mark.parametrize("words", REFUSED)
def test_adapters_that_cannot_be_are_one_line(
    words: str, tmp_path: Path, shard_set: Path, base: Path
) -> None:
    done = launch(
        "finetune", "--run=r", f"--shards={shard_set}", f"--init={base}", "--seq-len=64",
        "--tokens-per-step=512", *words.split(), cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 2
    assert REFUSED[words] in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "checkpoints_instruct").exists()


def test_order_of_targets_decides_nothing_and_others_are_refused(
    tmp_path: Path, shard_set: Path, base: Path
) -> None:
    train(tmp_path, shard_set, 1, f"--init={base}", "--lora=2", "--max-steps=1", "--decay-steps=1",
          "--lora-targets=c_fc,c_attn")  # fmt: skip

    again = launch(
        "finetune",
        "--run=r",
        "--lora-targets=c_attn,c_fc",
        "--max-steps=2",
        "--dry-run",
        cwd=tmp_path,
    )
    other = launch("finetune", "--run=r", "--lora-targets=c_proj", cwd=tmp_path)

    assert again.returncode == 0, again.stderr
    assert ": 1,152 numbers are trained, " in again.stdout, "what a run has is counted as it began"
    assert other.returncode == 2
    assert "--lora-targets is c_fc,c_attn, got c_proj" in other.stderr
