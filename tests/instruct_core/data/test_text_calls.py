"""Calls that stand in a text of a role of their own are learnt as the template writes calls."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from instruct_core.answers.plan import AnswerPlan, Settings, scan_prompts
from instruct_core.answers.sampling import Sampling
from instruct_core.data import shard_plan
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.shards import write_manifest, write_shard
from instruct_core.data.sources import Source
from instruct_core.data.template import text_of
from instruct_core.data.templates import choose_template
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.data.turns import Chat
from instruct_core.data.unread import chat_of
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from tests.conftest import launch

TEMPLATE = choose_template("chatml", load_tokenizer())


def chat(**call: Any) -> dict[str, Any]:
    """Return a row of ShareGPT whose assistant calls a tool."""
    said = [
        ("human", "Add."), ("function_call", json.dumps(call)), ("observation", "3"),
        ("gpt", f"It is {call['name']}."),
    ]  # fmt: skip
    return {"conversations": [{"from": role, "value": text} for role, text in said]}


ROWS = [chat(name="add", arguments={"a": 1}), chat(name="sum", arguments={}, thought="Hm.")]
PLAIN = [{"conversations": row["conversations"][::3]} for row in ROWS]


def source_of(path: Path, rows: list[dict[str, Any]]) -> Source:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(path.name, path.name, [str(path)])


def plan_of(path: Path, rows: list[dict[str, Any]]) -> ShardPlan:
    return scan(source_of(path, rows), None, None, skip_bad_rows=False, template=TEMPLATE)


def unnoticed(*asked: Any) -> Chat:
    """Return a chat as an earlier version did, which took such a call for a text as any other."""
    return chat_of(*asked)._replace(had_text_calls=False)


def test_call_in_a_text_is_learnt_as_the_template_writes_calls(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "a.jsonl", ROWS)

    [row, _] = plan.rows(0, TEMPLATE)

    assert row is not None
    learnt = text_of([segment for segment in row if segment.is_learnt])
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert learnt == f"{call}It is add."
    assert plan.num_text_calls == 2
    assert plan.unread == ["conversations.tool_calls.thought (in 1)"]


def test_plan_says_only_where_there_are_such_calls_that_they_are_read(tmp_path: Path) -> None:
    plain, called = plan_of(tmp_path / "a.jsonl", PLAIN), plan_of(tmp_path / "a.jsonl", ROWS)

    before = replace(called, num_text_calls=None)

    assert "num_text_calls" not in plain.to_document()
    assert called.changes_since(before) == ["text_calls: kept -> read"]
    assert called.fingerprint != before.fingerprint
    assert ShardPlan.from_document(called.to_document(), "plan.json") == called


@pytest.mark.parametrize("is_made", [True, False])
def test_shards_that_learn_such_a_text_are_kept_where_they_are_made_and_else_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    plan = replace(plan_of(tmp_path / "a.jsonl", ROWS), num_text_calls=None)
    plan = replace(plan, template_typed="chatml", long_rows="truncate")
    store = Store(tmp_path / "s")
    plan.save(store)
    if is_made:
        with monkeypatch.context() as patch:
            patch.setattr(shard_plan, "chat_of", unnoticed)
            write_shard(store, plan, 0, load_tokenizer())
        assert write_manifest(store, plan)
    else:
        with pytest.raises(
            ConfigError, match="earlier version, which learnt calls that stand in a"
        ):
            write_shard(store, plan, 0, load_tokenizer())

    done = launch("preprocess", "--source=a.jsonl", "--out=s", "--template=chatml", cwd=tmp_path)

    assert done.returncode == (0 if is_made else 1), done.stderr
    assert ("complete: nothing to do" in done.stdout) == is_made
    assert is_made or "cannot be finished by this one" in done.stdout + done.stderr


def test_questions_are_asked_with_such_calls_too(tmp_path: Path) -> None:
    rows = [{"conversations": row["conversations"][:3]} for row in ROWS]
    settings = Settings("m", "0", 8, Sampling(), 1, "answer")

    plan = scan_prompts(source_of(tmp_path / "a.jsonl", rows), None, None, 128, settings, TEMPLATE)

    asked = [text_of(question) for _, question in plan.questions(0, TEMPLATE)]
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>' in asked[0]
    before = replace(plan, num_text_calls=None)
    assert plan.changes_since(before) == ["text_calls: kept -> read"]
    assert not plan.makes_same_parts(before)
    assert AnswerPlan.from_document(plan.to_document(), "plan.json") == plan
