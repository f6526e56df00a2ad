"""The plan of a shard set: every row checked, every shard's place known, every change noticed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from instruct_core.data.columns import parse_columns
from instruct_core.data.order import sample_at
from instruct_core.data.shard_plan import BY_PLACE, ShardPlan, scan
from instruct_core.data.sources import Source
from instruct_core.data.template import text_of
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.errors import BadRowError, ConfigError, CorruptFileError
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store
from jobs.preprocess import PreprocessJob
from tests.conftest import write_rows

# Written by the first version that had shards, of the source that `old_source` makes.
OLD_PLAN = """\
{
 "format": 1,
 "fingerprint": "7428b16a898161cba223502194c05844",
 "source": "rows.jsonl",
 "identity": "rows.jsonl",
 "files": [
  {"url": "rows.jsonl", "bytes": 10755, "modified": "1700000000.0", "xxh3": "c30d073672f57ebb214479f43e51977b"}
 ],
 "columns": "instruction=instruction,input=input,output=output",
 "limit_rows": null,
 "skip_bad_rows": true,
 "num_rows": 251,
 "rows_per_shard": 250,
 "starts": [
  {"shard": 0, "start": [0, 0, 1]},
  {"shard": 1, "start": [0, 10750, 251]}
 ],
 "bad_rows": [
  {"where": "rows.jsonl:251", "problem": "not JSON: Expecting value: line 1 column 1 (char 0)"}
 ],
 "template": "alpaca-headings-1",
 "tokenizer": "gpt2-bpe-1ce1664773c5"
}
"""  # noqa: E501


def source_of(*paths: Path) -> Source:
    return Source("rows", "rows", [str(path) for path in paths])


def plan_of(*paths: Path, limit_rows: int | None = None, skip_bad_rows: bool = False) -> ShardPlan:
    return scan(source_of(*paths), None, limit_rows, skip_bad_rows)


def split_of(plan: ShardPlan) -> tuple[list[str], list[str]]:
    """Return what the rows to train on say, and those to validate with."""
    splits: tuple[list[str], list[str]] = [], []
    for shard in range(plan.num_parts):
        texts = [row and text_of(row) for row in plan.rows(shard, BY_HEADINGS)]
        for text, is_val in zip(texts, plan.is_val(shard, texts), strict=True):
            if text is not None:
                splits[bool(is_val)].append(text)
    return splits


def test_shards_together_hold_every_row_once_across_files(tmp_path: Path) -> None:
    first, second = write_rows(tmp_path / "a.jsonl", 420), write_rows(tmp_path / "b.jsonl", 333)
    plan = plan_of(first, second)

    rows = [row for shard in range(plan.num_parts) for row in plan.rows(shard, BY_HEADINGS)]

    lines = [line for path in (first, second) for line in path.read_text().splitlines()]
    expected = [json.loads(line)["instruction"] for line in lines]
    assert plan.num_parts == 4
    asked = [text_of(row).split("\n")[1] for row in rows if row]
    assert asked == expected


def test_five_percent_of_the_rows_are_for_validation(tmp_path: Path) -> None:
    plan = plan_of(write_rows(tmp_path / "a.jsonl", 1000))

    assert len(split_of(plan)[1]) == 50


def test_plan_survives_being_written(tmp_path: Path) -> None:
    plan = plan_of(write_rows(tmp_path / "a.jsonl", 30))

    plan.save(Store(tmp_path))

    assert ShardPlan.load(Store(tmp_path)) == plan


@pytest.fixture
def old_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The source of `OLD_PLAN`, in the working folder, and the plan in a store beside it."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"instruction": "Hi.", "output": "Hello."}\n' * 250 + "oops\n")
    os.utime("rows.jsonl", (1.7e9, 1.7e9))
    Path("plan.json").write_text(OLD_PLAN)
    return Source("rows.jsonl", "rows.jsonl", ["rows.jsonl"])


def test_plan_of_an_older_version_is_read_and_written_byte_for_byte(old_source: Source) -> None:
    plan = ShardPlan.load(Store("."))

    assert dump_document(plan.to_document()) == OLD_PLAN.encode()


def test_plan_of_an_older_version_goes_on_with_its_own_split(old_source: Source) -> None:
    Path("rows.jsonl").write_text(
        '{"instruction": "Hi.", "output": "Hello.", "history": "x"}\n' * 251
    )
    plan = scan(old_source, parse_columns("instruction=instruction,output=output"), None, True)
    places = [n for n in range(251) if sample_at(np.array([n], np.uint64), 251, 42)[0] < 13]

    begun = replace(plan, split=BY_PLACE, val_hashes=[])

    is_val = [begun.is_val(k, ["same"] * len(list(begun.rows(k, BY_HEADINGS)))) for k in range(2)]
    assert np.flatnonzero(np.concatenate(is_val)).tolist() == places
    assert begun.to_document().keys() == json.loads(OLD_PLAN).keys()
    assert begun.to_document()["format"] == 1
    assert plan.to_document()["format"] == 2


def test_plan_of_an_older_version_still_fits_its_command(old_source: Source) -> None:
    plan = ShardPlan.load(Store("."))
    columns = parse_columns("instruction=instruction,output=output")

    assert plan.still_fits(old_source, None, None, True, None)
    assert plan.still_fits(old_source, None, None, True, 250)
    assert not plan.still_fits(old_source, columns, None, True, None)
    assert not plan.still_fits(old_source, None, 251, True, None)
    assert not plan.still_fits(old_source, None, None, False, None)
    assert not plan.still_fits(old_source, None, None, True, 500)


@pytest.mark.parametrize("name", ["template", "tokenizer"])
def test_plan_with_another_template_or_tokenizer_fits_no_more(
    old_source: Source, name: str
) -> None:
    plan = replace(ShardPlan.load(Store(".")), **{name: "other"})

    assert not plan.still_fits(old_source, None, None, True, None)


def test_plan_whose_source_was_touched_fits_no_more(old_source: Source) -> None:
    os.utime("rows.jsonl", (1.8e9, 1.8e9))

    assert not ShardPlan.load(Store(".")).still_fits(old_source, None, None, True, None)


@pytest.mark.parametrize("key", ["starts", "template", "bad_rows", "files"])
def test_plan_without_one_of_its_keys_is_no_plan(old_source: Source, key: str) -> None:
    document = {k: v for k, v in json.loads(OLD_PLAN).items() if k != key}
    Path("plan.json").write_text(json.dumps(document))

    with pytest.raises(CorruptFileError, match=f"plan.json is no plan of this version.*{key}"):
        ShardPlan.load(Store("."))

    assert PreprocessJob(".", num_tasks=1).plan_if_there() is None


def test_changes_are_named_choice_by_choice(old_source: Source) -> None:
    old = ShardPlan.load(Store("."))

    plan = scan(old_source, None, limit_rows=20, skip_bad_rows=False)

    assert plan.changes_since(old) == [
        "columns: instruction=instruction,input=input,output=output -> "
        "instruction=instruction,output=output",
        "limit_rows: None -> 20",
        "skip_bad_rows: True -> False",
        "split: place-1 -> text-1",
    ]
    assert not plan.makes_same_parts(old)


def test_fingerprint_follows_content_and_not_the_path(tmp_path: Path) -> None:
    here, there = write_rows(tmp_path / "a.jsonl", 30), write_rows(tmp_path / "c.jsonl", 30)
    other = write_rows(tmp_path / "d.jsonl", 31)

    assert plan_of(here).fingerprint == plan_of(there).fingerprint
    assert plan_of(here).fingerprint != plan_of(other).fingerprint
    assert plan_of(here).fingerprint != plan_of(here, limit_rows=20).fingerprint


def test_first_bad_row_is_named_and_the_others_counted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 3)
    path.write_text(path.read_text() + '{"instruction": "x", "output": ""}\nnot json\n')

    with pytest.raises(BadRowError, match=r"a\.jsonl:4 .*empty.*\(1 more bad row follows\)"):
        plan_of(path)


def test_bad_rows_are_listed_when_they_are_skipped(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 3)
    path.write_text(path.read_text() + "not json\n")

    plan = plan_of(path, skip_bad_rows=True)

    assert [bad["where"] for bad in plan.bad_rows] == [f"{path}:4"]
    assert list(plan.rows(0, BY_HEADINGS))[3] is None


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_source_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)

    with pytest.raises(ConfigError, match="Source rows has no rows"):
        plan_of(path)


def test_row_that_stands_twice_is_in_one_split(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}.", "output": f"{n}"} for n in range(700)]
    rows += [{"instruction": f" Say {n}.\n", "input": "", "output": f"{n} "} for n in range(700)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    plan = plan_of(path)

    train, val = split_of(plan)
    assert plan.num_duplicates == 700
    assert len(val) == 70
    assert not set(train) & set(val)
    assert split_of(scan(source_of(path), None, None, False, rows_per_shard=1000))[1] == val


def test_plan_lists_the_first_thousand_bad_rows_and_counts_the_others(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 3)
    roles = [{"role": "x" * 5000, "content": "a"}]
    bad = json.dumps({"instruction": "a", "output": ""}) + "\n"
    path.write_text(path.read_text() + bad * 1700 + json.dumps({"messages": roles}) + "\n")

    plan = plan_of(path, skip_bad_rows=True)

    assert plan.num_bad_rows == 1701
    assert len(plan.bad_rows) == 1000
    plan.save(Store(tmp_path))
    assert ShardPlan.load(Store(tmp_path)) == plan
    with pytest.raises(BadRowError, match=r"a\.jsonl:4 .*\(1,700 more bad rows follow\)"):
        plan_of(path)


def test_source_that_shrinks_after_planning_is_noticed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 20)
    plan = plan_of(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:15]))

    with pytest.raises(
        BadRowError, match="changed after the command was given, noticed in shard 0"
    ):
        list(plan.rows(0, BY_HEADINGS))
