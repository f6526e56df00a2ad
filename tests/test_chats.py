"""Chats from the file to the answer: prepared, looked at, trained on, talked to, exported."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.shards import write_manifest, write_shard
from instruct_core.data.sources import Source
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from tests.conftest import TINY_RUN, launch

TWO_ANSWERS = [
    {"role": "user", "content": "0?"}, {"role": "assistant", "content": "Un."},
    {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Deux."},
]  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with chats, their shards in ChatML, and a run on them."""
    folder = tmp_path_factory.mktemp("chats")
    asked = [{"role": "user", "content": f"{n}?"} for n in range(40)]
    rows = [{"messages": [turn, *TWO_ANSWERS[1:], turn]} for turn in asked]
    for turn in asked[3:6]:
        rows.append({"messages": [turn, {"role": "assistant", "content": "word " * 90}]})
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = preprocess(folder, "--template=chatml", "--out=s")
    assert made.returncode == 0, made.stderr
    assert "Chats: 40 rows without what follows the last answer" in made.stdout
    flags = ("--shards=s", "--run=r", "--max-steps=2", "--loss-on=response", "--gpus=1", *TINY_RUN)
    run = launch("finetune", *flags, cwd=folder)
    assert run.returncode == 0, run.stderr
    assert " rows longer than --seq-len 64, truncated: " in run.stdout
    assert "none is learnt without its question" in run.stdout
    return folder


def preprocess(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return launch("preprocess", "--source=chats.jsonl", "--num-tasks=1", *flags, cwd=folder)


def inspected(folder: Path, *flags: str) -> list[dict[str, Any]]:
    shown = launch("preprocess", *flags, "--json", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    return [json.loads(line) for line in shown.stdout.splitlines()]


def test_rows_are_shown_as_the_model_sees_them(desk: Path) -> None:
    before = sorted(desk.rglob("*"))

    shown = launch("preprocess", "--out=s", "--inspect=2", cwd=desk)
    first, second = inspected(desk, "--out=s", "--inspect=2")

    assert "=== train, sequence 0, --seq-len 1024 ===\n--- row " in shown.stdout
    assert "+ Deux.<|endoftext|>" in shown.stdout
    assert "\\n" in shown.stdout
    assert (first["place"], second["place"]) == (0, len(first["tokens"]))
    assert first["positions"] == list(range(len(first["tokens"])))
    learnt = [line["text"] for line in first["lines"] + second["lines"] if line["learnt"]]
    assert learnt == ["Un.<|endoftext|>", "Deux.<|endoftext|>"] * 2
    assert sorted(desk.rglob("*")) == before


def test_rows_of_a_source_are_shown_before_anything_is_made(desk: Path) -> None:
    before = sorted(desk.rglob("*"))

    [row] = inspected(desk, "--source=chats.jsonl", "--inspect=1", "--out=other")

    text = "".join(line["text"] for line in row["lines"])
    assert text == (
        "### Instruction:\n0?\n\n### Response:\nUn.<|endoftext|>\n\n"
        "### Instruction:\nTwo?\n\n### Response:\nDeux.<|endoftext|>"
    )
    assert (row["tokens"][-1], row["learnt"][-1]) == (50256, True)
    assert sorted(desk.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--json",), "--json goes with --inspect N"),
        (("--inspect=0",), "--inspect must be at least 1, got 0"),
        (("--template=nosuch.jinja",), "--template nosuch.jinja is not there"),
        (("--template=base",), "--template base must be the tokenizer's own, and gpt2 has none"),
    ],
)
def test_wrong_flag_is_one_line_and_nothing_is_written(
    desk: Path, flags: tuple[str, ...], problem: str
) -> None:
    refused = preprocess(desk, *flags, "--out=refused")

    assert refused.returncode == 2
    assert problem in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (desk / "refused").exists()


def test_chat_asks_in_the_words_that_were_trained_on(desk: Path) -> None:
    [row] = inspected(desk, "--source=chats.jsonl", "--out=o", "--template=chatml", "--inspect=1")
    asked = launch("chat", "--run=r", "--prompt=0?", "--json", "--max-new-tokens=1", cwd=desk)

    answer = json.loads(asked.stdout)

    assert answer["prompt_tokens"] == row["learnt"].index(True)


def test_export_carries_the_template(desk: Path) -> None:
    made = launch("checkpoints", "export", "r", "--out=exported", cwd=desk)
    assert made.returncode == 0, made.stderr

    theirs = transformers.AutoTokenizer.from_pretrained(desk / "exported")

    [row] = inspected(desk, "--source=chats.jsonl", "--out=o", "--template=chatml", "--inspect=1")
    text = theirs.apply_chat_template(TWO_ANSWERS, tokenize=False)
    assert text == "".join(line["text"] for line in row["lines"]) + "\n"


def plan_of_an_earlier_version(folder: Path) -> ShardPlan:
    """Return a plan of chats as the version before made it: one answer a row, in its format."""
    path = folder / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, *TWO_ANSWERS[1:2]]} for n in range(9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = scan(Source("chats.jsonl", "chats.jsonl", [str(path)]), None, None, False)
    return replace(plan, template="alpaca-headings-1")


def test_chats_that_an_earlier_version_finished_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = plan_of_an_earlier_version(tmp_path), Store(tmp_path / "s")
    plan.save(store)
    with monkeypatch.context() as patch:
        patch.setattr(ShardPlan, "may_end_once", False)
        write_shard(store, plan, 0, load_tokenizer())
        assert write_manifest(store, plan)
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*.*")}

    again = preprocess(tmp_path, "--out=s")

    assert again.returncode == 0, again.stderr
    assert "which learnt the last answer of a chat alone, and kept so" in again.stdout
    assert {path: path.read_bytes() for path in before} == before


def test_chats_that_an_earlier_version_began_are_begun_anew(tmp_path: Path) -> None:
    plan = plan_of_an_earlier_version(tmp_path)
    plan.save(Store(tmp_path / "s"))

    again = preprocess(tmp_path, "--out=s")

    assert again.returncode == 0, again.stderr
    assert (
        "template: alpaca-headings-1 -> alpaca-headings-2\nAll shards are made anew" in again.stdout
    )
    with pytest.raises(ConfigError, match="were begun by an earlier version"):
        write_shard(Store(tmp_path / "other"), plan, 0, load_tokenizer())
