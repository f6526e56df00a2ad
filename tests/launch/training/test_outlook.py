"""What a launch says of itself before it does anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from instruct_core.config import PRESETS
from launch.training import outlook as module
from launch.training.micro_batch import Ranks
from launch.training.outlook import Plan, _notes, _time
from tests.conftest import launch
from tests.instruct_core.train.desk import CONFIG, TINY
from tests.launch.training.test_micro_batch import GPUS


def test_rows_that_will_be_cut_are_counted(tmp_path: Path) -> None:
    rows = [{"instruction": f"{n}" + " word" * 300, "output": "Yes."} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = launch("preprocess", "--source=rows.jsonl", "--out=s", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    flags = (
        "--shards=s",
        "--run=r",
        "--model=tiny",
        "--init=random",
        "--dry-run",
        "--cluster=local",
    )

    short = launch("finetune", *flags, "--seq-len=64", "--tokens-per-step=512", cwd=tmp_path)
    long = launch("finetune", *flags, "--seq-len=512", "--tokens-per-step=4096", cwd=tmp_path)

    assert "Long    19 rows longer than --seq-len 64, cut into pieces: " in short.stdout
    assert long.returncode == 0, long.stderr
    assert "no row is longer than --seq-len" in long.stdout


def test_defaults_that_hardly_fit_say_what_to_type(tmp_path: Path, shard_set: Path) -> None:
    said = launch(
        "finetune", f"--shards={shard_set}", "--run=r", "--model=tiny", "--init=random", "--dry-run",
        "--cluster=local", "--seq-len=64", "--tokens-per-step=512", "--max-steps=40", cwd=tmp_path,
    )  # fmt: skip

    assert said.returncode == 0, said.stderr
    assert (
        "Loss    on all tokens (--loss-on response: answers alone); at --learning-rate 2e-05"
        in said.stdout
    )
    assert "give --learning-rate 1e-3, or weights with --init" in said.stdout
    assert "the learning rate never reaches its peak (--warmup-steps 4)" in said.stdout


def test_rows_that_are_all_cut_off_before_their_answers_are_said(tmp_path: Path) -> None:
    short = [{"instruction": f"{n}", "output": "Yes."} for n in range(20)]
    long = [{"instruction": f"{n}" + " word" * 300, "output": "Yes."} for n in range(20)]
    for name, rows in (("short", short), ("long", long)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for name, other in (("short", "long"), ("long", "short")):
        made = launch(
            "preprocess", f"--source={name}.jsonl", f"--val-source={other}.jsonl", f"--out={name}",
            "--template=chatml", cwd=tmp_path,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr

    learns, learns_nothing = (
        launch(
            "finetune", f"--shards={shards}", "--run=r", "--model=tiny", "--init=random",
            "--dry-run", "--cluster=local", "--seq-len=64", "--tokens-per-step=512",
            "--loss-on=response", cwd=tmp_path,
        )
        for shards in ("short", "long")
    )  # fmt: skip

    assert learns.returncode == 0, learns.stderr
    assert "validate is cut off before its answer: there is no validation loss" in learns.stdout
    assert learns_nothing.returncode == 2
    assert learns_nothing.stderr.startswith("error: --seq-len 64 leaves nothing to learn: ")


def test_time_of_a_step_is_that_of_the_ranks_that_have_most_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four sequences of 64 over three ranks take as long as six; here a token takes a second."""
    monkeypatch.setattr(module, "step_seconds", lambda shape, tokens, *how: float(tokens))
    submission: Any = SimpleNamespace(machine=SimpleNamespace(num_gpus=0), minutes=None)
    config = replace(CONFIG, seq_len=64, tokens_per_step=256)

    three, two = (
        _time(Plan(config, TINY, submission, Ranks(1, number), "", "", 0, is_new=True), None)
        for number in (3, 2)
    )

    assert "a step of 256 tokens takes about 6 minutes" in three
    assert "a step of 256 tokens takes about 4 minutes" in two


@pytest.mark.parametrize(
    ("gigabytes", "gpus", "adapters", "told"),
    [
        (100, 8, 0, True),  # 12 bytes a parameter of gpt2-xl, of eight ranks
        (300, 8, 0, False),
        (100, 4, 0, False),
        (100, 8, 1_000_000, False),  # 4 bytes a parameter, of the base
        (None, 8, 0, False),
        (100, 0, 0, False),  # of CPU ranks more than this is counted, and refused
    ],
)
def test_node_without_the_memory_to_come_back_is_said(
    gigabytes: int | None, gpus: int, adapters: int, told: bool
) -> None:
    memory = gigabytes and gigabytes * 10**9
    machine = GPUS._replace(num_gpus=gpus, memory_bytes=memory, remedy="more --mem")
    submission: Any = SimpleNamespace(machine=machine)
    shape, ranks = PRESETS["gpt2-xl"], Ranks(2, gpus or 8)
    plan = Plan(CONFIG, shape, submission, ranks, "", "", 0, is_new=False, adapters=adapters)

    notes = [note for note in _notes(plan) if "comes back" in note]

    assert bool(notes) == told
    if told:
        assert notes[0].endswith("152 GB of a node's memory for a moment, and 100 GB are free on this "
                                 "machine: give more --mem")  # fmt: skip
