"""A source read in parts, by several readers, is found to be what one reader finds; so are its tokens."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from instruct_core.data import reading, records, shard_plan
from instruct_core.data.drafts import DraftWriter, Spool
from instruct_core.data.mixed_plan import MixedPlan
from instruct_core.data.ranges import Block
from instruct_core.data.reading import How, Read
from instruct_core.data.seen_rows import Notes
from instruct_core.data.shard_plan import ShardPlan
from instruct_core.data.shards import write_rows, write_shard
from instruct_core.data.sources import Source
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.data.turns import Exchange
from instruct_core.errors import BadRowError
from instruct_core.storage.store import Store
from tests.conftest import write_rows as write_alpaca

ROWS = [
    {"instruction": f"Say {n}. Zürich", "input": "here" * (n % 3), "output": f"{n % 900} <|endoftext|>"}
    for n in range(1300)
]  # fmt: skip


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every source for one that is worth several readers, and a block or two for a part."""
    monkeypatch.setattr(reading, "WORTH_BYTES", 0)
    monkeypatch.setattr(records, "ROWS_AT_ONCE", 300)


def by_turns(make: Callable[[int], Read], parts: Iterable[Block]) -> Iterator[Notes]:
    """Have two readers read a part each, by turns; the second one first."""
    readers = cycle([make(1), make(0)])
    yield from (read(part) for read, part in zip(readers, parts, strict=False))


def scan(*paths: Path, how: How = How(), **choices: Any) -> ShardPlan:  # noqa: B008
    asked = {"columns": None, "limit_rows": None, "skip_bad_rows": False} | choices
    source = Source("rows", "rows", [str(path) for path in paths])
    return shard_plan.scan(source, **asked, how=how)


def lines_of(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """Write rows in the format of a name."""
    if path.suffix == ".jsonl":
        path.write_text("\n \n" + lines_of(rows[:700]) + "\n\n" + lines_of(rows[700:]) + "\n \n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    else:
        pa.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=900)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize("limit_rows", [None, 250, 1801])
def test_parts_of_every_format_give_the_plan_of_the_whole(
    tmp_path: Path, name: str, limit_rows: int | None
) -> None:
    paths = write(tmp_path / name), write_alpaca(tmp_path / "b.jsonl", 660)

    plan = scan(*paths, how=How(by_turns), limit_rows=limit_rows)

    assert plan == scan(*paths, limit_rows=limit_rows)
    assert plan.num_rows == (limit_rows or 1960)


def test_first_bad_row_is_named_with_its_line_wherever_it_stands(tmp_path: Path) -> None:
    lines = lines_of(ROWS).splitlines(keepends=True)
    lines[1203:1203] = ["\n", "oops\n"]
    lines[700:700] = ["\n", '{"instruction": "Hi."}\n']
    (tmp_path / "a.jsonl").write_text("".join(lines))

    with pytest.raises(BadRowError) as refusal:
        scan(tmp_path / "a.jsonl", how=How(by_turns))

    assert str(refusal.value) == (
        f"Row {tmp_path}/a.jsonl:702 cannot be used: column output is missing (1 more bad row follows). "
        "Fix it, or pass --skip-bad-rows."
    )


def test_columns_are_noted_in_the_order_of_the_rows(tmp_path: Path) -> None:
    beside = {"first": 1, "choices": None, "history": "", "images": []}
    rows = [row | {f"c{n // 100}": 1} for n, row in enumerate(ROWS)]
    rows[1100] |= beside
    rows[1299] |= {"images": "said", "choices": "said", "last": 2}
    path = write(tmp_path / "a.jsonl", rows)

    plan = scan(path, how=How(by_turns), skip_bad_rows=True)

    assert plan == scan(path, skip_bad_rows=True)
    assert plan.refused == ["choices", "history", "images"]
    assert plan.unread[-2:] == ["c12", "last"]
    # The first that the row has: a reader need not know in which order others met them.
    assert plan.bad_rows[0]["problem"].startswith("column images is filled")


def test_array_that_breaks_off_is_named_behind_the_rows_before_it(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    damaged = bytearray((tmp_path / "a.parquet").read_bytes())
    damaged[4:40] = bytes(36)
    (tmp_path / "a.parquet").write_bytes(damaged)
    (tmp_path / "b.json").write_text(json.dumps(ROWS)[:-9])

    with pytest.raises(BadRowError, match=r"b\.json:1 is not JSON: the array is broken"):
        list(reading.cut_blocks([str(tmp_path / "b.json")], 250))
    with pytest.raises(BadRowError, match=r"a\.parquet is damaged behind row 0"):
        scan(tmp_path / "a.parquet", tmp_path / "b.json", how=How(by_turns))


def drafted(plan: ShardPlan, spools: list[Spool], folder: Path) -> dict[str, bytes]:
    """Return the files of all shards, made of drafts."""
    for shard in range(plan.num_parts):
        source, *blocks = plan.blocks(shard)
        rows, hashes = spools[source].rows(*blocks)
        write_rows(Store(folder), plan, shard, rows, plan.chosen(shard, hashes))
    return files_of(folder)


def made(plan: ShardPlan, folder: Path) -> dict[str, bytes]:
    """Return the files of all shards, made of the source."""
    for shard in range(plan.num_parts):
        write_shard(Store(folder), plan, shard, load_tokenizer())
    return files_of(folder)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*")}


@pytest.mark.parametrize("spread", [None, by_turns])
@pytest.mark.parametrize("rows_per_shard", [None, 500])
def test_drafts_become_the_shards_that_tasks_make(
    tmp_path: Path, spread: Any, rows_per_shard: int | None
) -> None:
    rows: list[Any] = [*ROWS[:600], {"output": "bad"}, *ROWS[600:]]
    rows[250:500] = [{"instruction": "All of a block is bad."}] * 250
    path, spool = write(tmp_path / "a.jsonl", rows), Spool(tmp_path, 2, load_tokenizer())
    choices = {"skip_bad_rows": True, "rows_per_shard": rows_per_shard}

    plan = scan(path, how=How(spread, spool), **choices)

    assert plan == scan(path, **choices)
    assert drafted(plan, [spool], tmp_path / "d") == made(plan, tmp_path / "m")
    spool.close()


@pytest.mark.parametrize(("held_out", "val_rows"), [(False, None), (True, None), (True, 90)])
def test_drafts_of_a_mixture_become_the_shards_that_tasks_make(
    tmp_path: Path, held_out: bool, val_rows: int | None
) -> None:
    chats = [{"messages": [{"role": "user", "content": f"Hi {n}.", "name": "Ann"},
              {"role": "assistant", "content": "Hello."}] * (1 + n % 2)} for n in range(700)]  # fmt: skip
    spools = [Spool(tmp_path, 2, load_tokenizer()) for _ in range(2)]

    plans = [
        scan(write(tmp_path / name, rows), how=How(by_turns, spool), val_rows=val_rows)
        for name, rows, spool in zip(("a.csv", "b.jsonl"), (ROWS, chats), spools, strict=True)
    ]
    plan = MixedPlan.of(plans, [] if held_out else [2.0, 1.0], held_out)

    assert drafted(plan, spools, tmp_path / "d") == made(plan, tmp_path / "m")
    assert plans[1].unread == ["messages.name (in 1,050)"]
    for spool in spools:
        spool.close()


def test_drafts_leave_nothing_on_the_disk(tmp_path: Path) -> None:
    path = write_alpaca(tmp_path / "a.jsonl", 300)
    spool = Spool(tmp_path, 2, load_tokenizer())

    scan(path, how=How(by_turns, spool))

    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]
    assert len(spool.drafts) == 2
    spool.close()


def test_disk_that_takes_no_more_tokens_is_named() -> None:
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space") as refusal:
        DraftWriter(0, full.fileno(), load_tokenizer(), "shards").write(
            [BY_HEADINGS.segments(Exchange("Hi.", "", "Hello.").turns)], array("Q", [1])
        )

    assert refusal.value.filename == "shards"
