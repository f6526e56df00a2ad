"""A run from random weights with short sequences: nothing that uses it goes where it was not trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import TINY_RUN, launch, write_rows

TRAINED = 64  # tokens of a sequence of TINY_RUN; the model has 1,024 positions
LIMIT = "trained on 64 of its 1,024 positions"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    desk = tmp_path_factory.mktemp("desk")
    write_rows(desk / "rows.jsonl", num_rows=120)
    for verb, *words in (
        ("preprocess", "--source=rows.jsonl", "--out=shards/small", "--num-tasks=1"),
        ("finetune", "--run=r", "--shards=shards/small", "--max-steps=2", *TINY_RUN),
        ("checkpoints", "export", "r", "--out=exported"),
    ):
        done = launch(verb, *words, cwd=desk)
        assert done.returncode == 0, done.stderr
        (desk / f"{verb}.txt").write_text(done.stdout)
    return desk


def test_launch_and_export_say_it(desk: Path) -> None:
    assert (
        f"--seq-len {TRAINED} trains 64 of 1,024 positions" in (desk / "finetune.txt").read_text()
    )
    assert f"It was {LIMIT}: give it no text of more" in (desk / "checkpoints.txt").read_text()
    assert json.loads((desk / "exported/config.json").read_text())["trained_positions"] == TRAINED
    # Other programs read the export as before.
    assert AutoTokenizer.from_pretrained(desk / "exported").model_max_length == TRAINED
    assert AutoModelForCausalLM.from_pretrained(desk / "exported").config.n_positions == 1024


@pytest.mark.parametrize("model", ["--run=r", "--checkpoint=exported"])
def test_chat_drops_history_and_says_why(desk: Path, model: str) -> None:
    typed = "".join("word " * words + "\n" for words in (30, 30, 70))

    done = launch("chat", model, "--max-new-tokens=8", cwd=desk, typed=typed)

    assert done.returncode == 2
    dropped, refused = done.stderr.splitlines()
    assert f"no longer fits the model, which was {LIMIT}: the 1 oldest of 1 exchanges" in dropped
    assert f"takes at most 63 to leave room for an answer (it was {LIMIT}). Shorten it." in refused


def test_answers_keep_to_it_and_their_plan_says_it(desk: Path) -> None:
    rows = [{"prompt": "word " * 70}, {"prompt": "Hi."}]
    (desk / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--source=q.jsonl", "--out=a.jsonl", "--max-new-tokens=900", "--num-tasks=1")

    done = launch("generate", *words, cwd=desk)

    assert done.returncode == 0, done.stderr
    assert "trained on 64 positions" in done.stdout
    long, short = map(json.loads, (desk / "a.jsonl").read_text().splitlines())
    assert (long["finish_reason"], long["new_tokens"]) == ("too_long", 0)
    assert short["new_tokens"] < TRAINED
    plan = desk / "a.jsonl.parts" / "plan.json"
    assert json.loads(plan.read_text())["settings"]["positions"] == TRAINED


def test_evaluation_keeps_to_it_and_says_it(desk: Path) -> None:
    words = ("--checkpoint=exported", "--base=random", "--shards=shards/small", "--out=report")

    done = launch("evaluate", *words, "--rows=4", "--max-new-tokens=400", cwd=desk)

    assert done.returncode == 0, done.stderr
    assert LIMIT in done.stderr
    assert json.loads((desk / "report/report.json").read_text())["seq_len"] == TRAINED


def test_longer_sequences_train_more_of_them(desk: Path) -> None:
    flags = ("--shards=shards/small", "--init=exported", "--max-steps=1", "--tokens-per-step=512")

    for run, seq_len in (("shorter", 32), ("longer", 128)):
        done = launch("finetune", f"--run={run}", f"--seq-len={seq_len}", *flags, cwd=desk)
        assert done.returncode == 0, done.stderr

    steps = (desk / f"checkpoints_instruct/{run}/step-00000001" for run in ("shorter", "longer"))
    said = [json.loads((step / "config.json").read_text())["trained_positions"] for step in steps]
    assert said == [TRAINED, 128]
