"""The plan of a shard set: every row checked, every shard's place known, every change noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from instruct_core.data.plan import Plan, scan
from instruct_core.data.sources import Source, resolve_source
from instruct_core.errors import BadRowError, ConfigError, MissingError
from instruct_core.storage.store import Store
from tests.conftest import write_rows


def source_of(*paths: Path) -> Source:
    return Source("rows", "rows", [str(path) for path in paths])


def plan_of(*paths: Path, limit_rows: int | None = None, skip_bad_rows: bool = False) -> Plan:
    return scan(source_of(*paths), None, limit_rows, skip_bad_rows)


def test_shards_together_hold_every_row_once_across_files(tmp_path: Path) -> None:
    first, second = write_rows(tmp_path / "a.jsonl", 420), write_rows(tmp_path / "b.jsonl", 333)
    plan = plan_of(first, second)

    rows = [row for shard in range(plan.num_shards) for row in plan.rows(shard)]

    expected = [json.loads(line)["instruction"] for p in (first, second) for line in p.open()]
    assert plan.num_shards == 4
    assert [row.instruction for row in rows if row] == expected


def test_five_percent_of_the_rows_are_for_validation(tmp_path: Path) -> None:
    plan = plan_of(write_rows(tmp_path / "a.jsonl", 1000))

    is_val = np.concatenate([plan.is_val(shard) for shard in range(plan.num_shards)])

    assert is_val.sum() == 50


def test_plan_survives_json(tmp_path: Path) -> None:
    plan = plan_of(write_rows(tmp_path / "a.jsonl", 30))

    assert Plan.from_document(json.loads(json.dumps(plan.to_document()))) == plan


def test_fingerprint_follows_content_and_not_the_path(tmp_path: Path) -> None:
    here, there = write_rows(tmp_path / "a.jsonl", 30), write_rows(tmp_path / "c.jsonl", 30)
    other = write_rows(tmp_path / "d.jsonl", 31)

    assert plan_of(here).fingerprint == plan_of(there).fingerprint
    assert plan_of(here).fingerprint != plan_of(other).fingerprint
    assert plan_of(here).fingerprint != plan_of(here, limit_rows=20).fingerprint


def test_first_bad_row_is_named_and_the_others_counted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 3)
    path.write_text(path.read_text() + '{"instruction": "x", "output": ""}\nnot json\n')

    with pytest.raises(BadRowError, match=r"a\.jsonl:4 .*empty.*\(1 more bad rows follow\)"):
        plan_of(path)


def test_bad_rows_are_listed_when_they_are_skipped(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 3)
    path.write_text(path.read_text() + "not json\n")

    plan = plan_of(path, skip_bad_rows=True)

    assert [bad["where"] for bad in plan.bad_rows] == [f"{path}:4"]
    assert list(plan.rows(0))[3] is None


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_source_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)

    with pytest.raises(ConfigError, match="found: none"):
        plan_of(path)


def test_source_that_shrinks_after_planning_is_noticed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", 20)
    plan = plan_of(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:15]))

    with pytest.raises(
        BadRowError, match="changed after the command was given, noticed in shard 0"
    ):
        list(plan.rows(0))


def test_glob_takes_files_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.csv"):
        write_rows(tmp_path / name, 1)

    source = resolve_source(f"{tmp_path}/*.jsonl", Store(tmp_path / "out"))

    assert [Path(file).name for file in source.files] == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize("name", ["missing.jsonl", "no/such/file.csv", "nothing-*.jsonl", "name"])
def test_source_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingError, match="is not there: no file or dataset"):
        resolve_source(name, Store(tmp_path))


def test_dataset_that_cannot_be_downloaded_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="cannot be had as a Hugging Face dataset") as caught:
        resolve_source("nobody/nothing", Store(tmp_path))

    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_folder_as_source_is_refused_with_the_glob_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder. Name its files: --source '.*/\*.jsonl'"):
        resolve_source(str(tmp_path), Store(tmp_path))
