"""Batch inference on real processes: the same answers whatever happens on the way."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from instruct_core.answers.generation import generate
from instruct_core.answers.plan import AnswerPlan
from instruct_core.answers.writer import load_planned_model
from instruct_core.data.encoding import prompt_tokens
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.data.turns import Exchange
from instruct_core.model.packed import HalvedLinear
from instruct_core.model.weights import load_model
from instruct_core.storage.store import Store
from tests.conftest import HANGS_SECONDS, TINY_RUN, launch, start, wait_for
from tests.launch.test_errors import snapshot

NUM_ROWS = 90
FLAGS = ["--source=q.jsonl", "--max-new-tokens=16", "--rows-per-part=20", "--batch-size=8"]
SAMPLED = ["--temperature=1", "--top-k=50", "--top-p=0.9", "--seed=3"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, shard_set: Path) -> Path:
    desk = tmp_path_factory.mktemp("desk")
    trained = launch(
        "finetune", "--run=r", f"--shards={shard_set}", "--max-steps=2", *TINY_RUN, cwd=desk
    )
    assert trained.returncode == 0, trained.stderr
    with (desk / "q.jsonl").open("w") as file:
        for n in range(NUM_ROWS):
            question = f"Say {'so ' * (n * 7 % 23)}number {n}."
            file.write(
                json.dumps({"id": n, "instruction": question, "input": "é" * (n % 3)}) + "\n"
            )
    return desk


@pytest.fixture(scope="module")
def answers(desk: Path) -> bytes:
    """What an undisturbed command with one task makes."""
    result = launch("generate", *FLAGS, *SAMPLED, "--out=one.jsonl", "--num-tasks=1", cwd=desk)
    assert result.returncode == 0, result.stderr
    assert f"{NUM_ROWS} rows" in result.stdout
    assert "tokens/s" in result.stdout
    return (desk / "one.jsonl").read_bytes()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_keep_the_rows_and_their_order(desk: Path, answers: bytes) -> None:
    asked, answered = lines(desk / "q.jsonl"), [json.loads(line) for line in answers.splitlines()]

    assert [{key: row[key] for key in asked[0]} for row in answered] == asked
    assert {row["finish_reason"] for row in answered} <= {"end", "length", "stopped"}
    assert all(0 <= row["new_tokens"] <= 16 for row in answered)
    assert len({row["answer"] for row in answered}) > NUM_ROWS // 2


def test_greedy_answers_are_those_of_one_question_alone(desk: Path) -> None:
    result = launch("generate", *FLAGS, "--out=greedy.jsonl", "--limit-rows=25", cwd=desk)

    assert result.returncode == 0, result.stderr
    model = load_model(str(desk / "checkpoints_instruct/r/step-00000002"))
    tokenizer = load_tokenizer()
    for row in lines(desk / "greedy.jsonl"):
        asked = Exchange(row["instruction"], row["input"]).turns
        prompt = prompt_tokens(BY_HEADINGS.segments(asked, asks=True), tokenizer)
        [alone] = generate(model, [prompt], max_new_tokens=16)
        assert row["new_tokens"] == len(alone.tokens)
        assert row["answer"] == tokenizer.decode(alone.tokens).strip()


def test_task_keeps_the_weights_as_they_were_asked_for(desk: Path) -> None:
    asked = ["--out=half.jsonl", "--limit-rows=3", "--weights=fp16", "--num-tasks=1"]

    result = launch("generate", *FLAGS, *asked, cwd=desk)

    assert result.returncode == 0, result.stderr
    assert ", weights kept as fp16" in result.stdout
    model = load_planned_model(AnswerPlan.load(Store(desk / "half.jsonl.parts")))
    assert isinstance(model.answering_head, HalvedLinear)


@pytest.mark.parametrize("num_tasks", [2, 7])
def test_number_of_tasks_decides_nothing(desk: Path, answers: bytes, num_tasks: int) -> None:
    out = f"tasks{num_tasks}.jsonl"

    result = launch(
        "generate", *FLAGS, *SAMPLED, f"--out={out}", f"--num-tasks={num_tasks}", cwd=desk
    )

    assert result.returncode == 0, result.stderr
    assert (desk / out).read_bytes() == answers


def test_row_draws_the_same_whoever_is_answered_beside_it(desk: Path, answers: bytes) -> None:
    settings = [flag for flag in FLAGS if not flag.startswith(("--batch-size", "--rows-per-part"))]

    result = launch(
        "generate", *settings, *SAMPLED, "--batch-size=3", "--out=three.jsonl", cwd=desk
    )

    assert result.returncode == 0, result.stderr
    assert (desk / "three.jsonl").read_bytes() == answers


def test_killed_command_makes_only_what_is_missing(desk: Path, answers: bytes) -> None:
    command = [*FLAGS, *SAMPLED, "--out=killed.jsonl", "--num-tasks=2"]
    parts = desk / "killed.jsonl.parts"
    launcher = start("generate", *command, cwd=desk)
    wait_for(lambda: list(parts.glob("0*.json")) or launcher.poll() is not None, "the first part")
    launcher.send_signal(signal.SIGINT)
    _, errors = launcher.communicate(timeout=HANGS_SECONDS)
    assert launcher.returncode == 130, errors
    assert not (desk / "killed.jsonl").exists()
    made = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.json")}

    result = launch("generate", *command, cwd=desk)

    assert result.returncode == 0, result.stderr
    assert (desk / "killed.jsonl").read_bytes() == answers
    assert {name: (parts / name).stat().st_mtime_ns for name in made} == made


def test_damaged_part_is_made_again_and_a_lost_file_joined(desk: Path, answers: bytes) -> None:
    command = [*FLAGS, *SAMPLED, "--out=damaged.jsonl", "--num-tasks=1"]
    launch("generate", *command, cwd=desk)
    part = desk / "damaged.jsonl.parts/00002.jsonl"
    part.write_bytes(part.read_bytes().replace(b"Say", b"Sag", 1))
    (desk / "damaged.jsonl").unlink()
    whole = (desk / "damaged.jsonl.parts/00000.json").stat().st_mtime_ns

    result = launch("generate", *command, cwd=desk)

    assert result.returncode == 0, result.stderr
    assert (desk / "damaged.jsonl").read_bytes() == answers
    assert (desk / "damaged.jsonl.parts/00000.json").stat().st_mtime_ns == whole
    again = launch("generate", *command, cwd=desk)
    assert again.stdout.endswith("Answers damaged.jsonl are complete: nothing to do.\n")
    (desk / "damaged.jsonl").write_bytes(answers[:-1])
    assert launch("generate", *command, cwd=desk).returncode == 0
    assert (desk / "damaged.jsonl").read_bytes() == answers


def test_other_settings_never_overwrite_answers(desk: Path, answers: bytes) -> None:
    before = snapshot(desk)

    result = launch("generate", *FLAGS, *SAMPLED, "--top-p=0.8", "--out=one.jsonl", cwd=desk)

    assert result.returncode == 2
    assert "in another way (top_p: 0.9 -> 0.8). Give another name" in result.stderr
    assert snapshot(desk) == before


def test_question_that_is_empty_is_told_in_its_line_and_spoils_no_other(desk: Path) -> None:
    rows = ['{"prompt": "  ", "id": 12345678901234567890123}', '{"prompt": "Hi.", "score": NaN}']
    (desk / "odd.jsonl").write_text("\n".join(rows) + "\n")

    result = launch(
        "generate", "--source=odd.jsonl", "--out=odd-answers.jsonl", "--max-new-tokens=4", cwd=desk
    )

    assert result.returncode == 0, result.stderr
    empty, other = lines(desk / "odd-answers.jsonl")
    assert (empty["answer"], empty["finish_reason"], empty["new_tokens"]) == ("", "empty", 0)
    assert empty["id"] == 12345678901234567890123
    assert other["finish_reason"] in ("end", "length", "stopped")
    assert other["score"] is None


def test_question_that_is_too_long_is_told_in_its_line(desk: Path) -> None:
    rows = [{"prompt": "word " * 1200}, {"prompt": "Hi.", "answer": "kept"}]
    (desk / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    result = launch(
        "generate", "--source=long.jsonl", "--out=long-out.jsonl", "--answer-column=reply",
        "--max-new-tokens=4", cwd=desk,
    )  # fmt: skip

    assert result.returncode == 0, result.stderr
    long, short = lines(desk / "long-out.jsonl")
    assert (long["reply"], long["finish_reason"], long["new_tokens"]) == ("", "too_long", 0)
    assert short["answer"] == "kept"
    assert short["new_tokens"] > 0


def test_messages_that_end_with_a_question_are_answered(desk: Path) -> None:
    turns = [("user", "Hi."), ("assistant", "Hello."), ("user", "And now?")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (desk / "chat.jsonl").write_text(json.dumps(row) + "\n")

    result = launch("generate", "--source=chat.jsonl", "--out=chat-out.jsonl", cwd=desk)

    assert result.returncode == 0, result.stderr
    assert lines(desk / "chat-out.jsonl")[0]["messages"] == row["messages"]


def test_run_that_goes_on_is_answered_by_the_step_it_was_begun_with(desk: Path) -> None:
    command = [*FLAGS, "--run=r", "--out=begun.jsonl", "--num-tasks=1"]
    launcher = start("generate", *command, cwd=desk)
    parts = desk / "begun.jsonl.parts"
    wait_for(lambda: list(parts.glob("0*.json")) or launcher.poll() is not None, "the first part")
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=HANGS_SECONDS)
    newer = desk / "checkpoints_instruct/r/step-00000004"
    plan = json.loads((parts / "plan.json").read_text())
    assert plan["settings"]["model"].endswith("r/step-00000002")
    trained = launch("finetune", "--run=r", "--max-steps=4", cwd=desk)
    assert trained.returncode == 0, trained.stderr
    assert newer.exists()

    result = launch("generate", *command, cwd=desk)

    assert result.returncode == 0, result.stderr
    assert "step-00000002" in result.stdout
