"""Files that have one type for all objects of a column, as parquet does: no row learns another's keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instruct_core.answers.plan import AnswerPlan, Settings, scan_prompts
from instruct_core.answers.sampling import Sampling
from instruct_core.data.columns import Columns
from instruct_core.data.dialects.typed import without_fill
from instruct_core.data.mixed_plan import MixedPlan
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.shards import is_written, write_manifest, write_shard
from instruct_core.data.sources import Source
from instruct_core.data.template import text_of
from instruct_core.data.templates import choose_template
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from tests.conftest import launch


def chat(call: dict[str, Any], tool: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose assistant calls a tool."""
    said = [
        {"role": "user", "content": f"Do {call['name']}."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": call}],
        },
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": f"{call['name']}: done."},
    ]
    return {"messages": said, "tools": [{"type": "function", "function": tool}]}


ADD = {"name": "add", "arguments": {"a": 1, "b": {"of": 2}}}
LOOK = {"name": "look", "arguments": {"b": {"city": "Bern"}, "list": [{"x": 1}, {"y": 2}]}}
ADDS = {"name": "add", "parameters": {"properties": {"a": {"type": "number"}}}}
LOOKS = {"name": "look", "parameters": {"properties": {"b": {"type": "object"}}}}
ROWS = [chat(ADD, ADDS), chat(LOOK, LOOKS)]
# A null that somebody wrote, in JSON: also where a table keeps that as text.
EXPLICIT = {"name": "add", "arguments": {"a": 1, "b": None}}
AS_TEXT = {"name": "add", "arguments": json.dumps(EXPLICIT["arguments"])}
TEMPLATE = choose_template("chatml", load_tokenizer())


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan_of(path: Path) -> ShardPlan:
    source = Source(path.name, path.name, [str(path)])
    return scan(source, Columns(messages="messages"), None, skip_bad_rows=False)


def texts_of(plan: ShardPlan) -> list[str]:
    rows = plan.rows(0, TEMPLATE)
    return [text_of(row) for row in rows if row is not None]


def test_row_of_a_table_learns_the_keys_that_it_has(tmp_path: Path) -> None:
    table, lines = write(tmp_path / "a.parquet", ROWS), write(tmp_path / "a.jsonl", ROWS)

    assert "null" in json.dumps(pq.read_table(table).to_pylist())
    texts = texts_of(plan_of(table))
    assert texts == texts_of(plan_of(lines))
    assert '{"name": "add", "arguments": {"a": 1, "b": {"of": 2}}}' in texts[0]


def test_tools_of_a_table_have_the_keys_that_the_row_has() -> None:
    columns = Columns(messages="messages", tools="tools")
    filled = pa.Table.from_pylist(ROWS).to_pylist()

    for row, bare in zip(ROWS, [without_fill(row, columns) for row in filled], strict=True):
        assert bare["tools"] == row["tools"]
        assert bare["messages"][1]["tool_calls"] == row["messages"][1]["tool_calls"]
        assert bare["messages"][0]["tool_calls"] is None  # what is no call stays as it is
    assert without_fill(ROWS[0], columns) is ROWS[0]


def test_nan_of_a_table_is_its_null() -> None:
    call = {"name": "add", "arguments": {"a": 1, "b": float("nan")}}

    bare = without_fill(chat(call, ADDS), Columns(messages="messages", tools="tools"))

    assert bare["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}


@pytest.mark.parametrize(
    ("name", "call"), [("a.jsonl", EXPLICIT), ("a.jsonl", AS_TEXT), ("a.parquet", AS_TEXT)]
)
def test_null_that_somebody_wrote_is_learnt(
    tmp_path: Path, name: str, call: dict[str, Any]
) -> None:
    plan = plan_of(write(tmp_path / name, [chat(call, ADDS)]))

    assert '"arguments": {"a": 1, "b": null}' in texts_of(plan)[0]
    assert not plan.num_filled


def test_shards_of_which_no_row_changes_are_those_of_before(tmp_path: Path) -> None:
    rows = [{"messages": row["messages"][::3], "more": {"a": 1}} for row in ROWS]
    table, filled, lines = (
        plan_of(write(tmp_path / name, what))
        for name, what in (("a.parquet", rows), ("b.parquet", ROWS), ("a.jsonl", ROWS))
    )

    assert (table.num_filled, filled.num_filled, lines.num_filled) == (0, 2, None)
    assert table.fingerprint == replace(table, num_filled=None).fingerprint
    assert "num_filled" not in lines.to_document()
    assert filled.changes_since(replace(filled, num_filled=None)) == ["null_keys: kept -> left out"]
    assert ShardPlan.from_document(filled.to_document(), "plan.json") == filled


def preprocess(folder: Path) -> str:
    done = launch(
        "preprocess", "--source=a.parquet", "--out=s", "--columns=messages=messages", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("is_made", [True, False])
def test_shards_of_an_earlier_version_are_kept_where_they_are_made_and_else_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    plan = replace(plan_of(write(tmp_path / "a.parquet", ROWS)), num_filled=None)
    store = Store(tmp_path / "s")
    plan.save(store)
    with pytest.raises(ConfigError, match="earlier version, which learnt null for keys that only"):
        write_shard(store, plan, 0, load_tokenizer())
    if is_made:
        with monkeypatch.context() as patch:
            patch.setattr(ShardPlan, "may_have_fill", False)
            write_shard(store, plan, 0, load_tokenizer())
        assert write_manifest(store, plan)

    said = preprocess(tmp_path)

    assert ("complete: nothing to do" in said) == is_made
    assert ("null_keys: kept -> left out\nAll shards are made anew." in said) == (not is_made)
    assert is_written(store, plan, 0) == is_made


def test_made_set_of_several_tables_of_an_earlier_version_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, store = [{"messages": row["messages"]} for row in ROWS], Store(tmp_path / "s")
    plans = [plan_of(write(tmp_path / name, rows)) for name in ("a.parquet", "b.parquet")]
    plan = MixedPlan.of([replace(plan, num_filled=None) for plan in plans], weights=[])
    plan.save(store)
    with monkeypatch.context() as patch:
        patch.setattr(ShardPlan, "may_have_fill", False)
        for shard in range(plan.num_parts):
            write_shard(store, plan, shard, load_tokenizer())
    assert write_manifest(store, plan)

    done = launch("preprocess", "--source=a.parquet", "--source=b.parquet", "--out=s", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "complete: nothing to do" in done.stdout


def questions_of(path: Path) -> AnswerPlan:
    settings = Settings("m", "0", 8, Sampling(), 1, "answer")
    source = Source("rows", "rows", [str(path)])
    return scan_prompts(source, None, None, 128, settings, TEMPLATE)


def test_questions_of_a_table_are_asked_with_the_keys_that_they_have(tmp_path: Path) -> None:
    rows = [{"messages": row["messages"][:3]} for row in ROWS]
    table, lines = (
        questions_of(write(tmp_path / f"a.{end}", rows)) for end in ("parquet", "jsonl")
    )

    asked, wanted = (
        [text_of(question) for _, question in plan.questions(0, TEMPLATE)]
        for plan in (table, lines)
    )

    assert asked == wanted
    assert (table.num_filled, lines.num_filled) == (2, None)
    before = replace(table, num_filled=None)
    assert table.changes_since(before) == ["null_keys: kept -> left out"]
    assert not table.makes_same_parts(before)
    assert AnswerPlan.from_document(table.to_document(), "plan.json") == table
