"""The plan of the answers: what decides them, and the file that holds it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from instruct_core.answers.plan import AnswerPlan, scan_prompts
from instruct_core.answers.sampling import Sampling
from instruct_core.data.sources import Source
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store

# Written by the first version that had answers, of five rows `{"instruction": "Hi."}`.
OLD_PLAN = """\
{
 "format": 1,
 "fingerprint": "72edb5aa6ef6cbe5c025bae813ba79b6",
 "source": "q.jsonl",
 "files": [
  {"url": "q.jsonl", "bytes": 115, "modified": "1700000000.0", "xxh3": "8fc98b5a04128b3a95a4ffff5655e679"}
 ],
 "columns": "instruction=instruction,input=input",
 "limit_rows": 4,
 "num_rows": 4,
 "rows_per_part": 2,
 "starts": [
  {"part": 0, "start": [0, 0, 1]},
  {"part": 1, "start": [0, 46, 3]}
 ],
 "settings": {"model": "runs/step-00000002", "model_xxh3": "0123456789abcdef0123456789abcdef", "max_new_tokens": 16, "sampling": {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 3}, "batch_size": 8, "answer_column": "answer"},
 "template": "alpaca-headings-1",
 "tokenizer": "gpt2-bpe-1ce1664773c5"
}
"""  # noqa: E501


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The rows of the old plan, and the plan itself."""
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text('{"instruction": "Hi."}\n' * 5)
    os.utime("q.jsonl", (1.7e9, 1.7e9))
    Path("plan.json").write_text(OLD_PLAN)
    return Source("q.jsonl", "q.jsonl", ["q.jsonl"])


def test_plan_of_an_older_version_is_read_and_written_as_it_was(source: Source) -> None:
    plan = AnswerPlan.load(Store("."))

    assert plan.fingerprint == "72edb5aa6ef6cbe5c025bae813ba79b6"
    assert dump_document(plan.to_document()).decode() == OLD_PLAN.replace(
        '"answer_column": "answer"', '"answer_column": "answer", "drawing": 1'
    )
    assert [record["instruction"] for record, _ in plan.questions(1, BY_HEADINGS)] == ["Hi.", "Hi."]


def test_numbers_that_weights_are_kept_in_decide_answers(source: Source) -> None:
    old = AnswerPlan.load(Store("."))
    plan = replace(old, settings=replace(old.settings, weights="fp16"))

    plan.save(Store("other"))

    assert AnswerPlan.load(Store("other")) == plan
    assert plan.changes_since(old) == ["weights: fp32 -> fp16"]
    assert not plan.makes_same_parts(old)


def test_other_questions_are_told_in_words_and_not_by_their_hashes(source: Source) -> None:
    old = AnswerPlan.load(Store("."))
    plan = replace(old, files=[replace(old.files[0], xxh3="0" * 32)])

    assert plan.changes_since(old) == ["other rows in the source"]


@pytest.mark.parametrize(
    ("sampling", "same"),
    [
        (Sampling(), True),
        (Sampling(temperature=1.0, seed=3), True),
        (Sampling(temperature=1.0, top_k=50, seed=3), False),
        (Sampling(temperature=1.0, top_p=0.9, seed=3), False),
        (Sampling(repetition_penalty=1.2), False),
    ],
)
def test_answers_begun_with_another_way_of_drawing_are_told_apart(
    source: Source, sampling: Sampling, same: bool
) -> None:
    old = AnswerPlan.load(Store("."))
    old = replace(old, settings=replace(old.settings, sampling=sampling))

    plan = scan_prompts(source, None, 4, rows_per_part=2, settings=old.settings)
    assert plan.columns == "instruction=instruction"
    plan = plan.as_begun(old)

    assert plan.makes_same_parts(old) == same
    assert plan.changes_since(old) == ([] if same else ["drawing: 1 -> 2"])
