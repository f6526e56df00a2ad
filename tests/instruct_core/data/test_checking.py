"""However many processes check the rows of a source, they find what one finds, in its order."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instruct_core.data import checking, shard_plan, unread
from instruct_core.data.checking import checked_by
from instruct_core.data.records import read_unparsed
from instruct_core.data.seen_rows import SeenRows
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.sources import Source
from instruct_core.data.template import Segment
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.turns import Turn
from instruct_core.errors import BadRowError
from tests.conftest import HANGS_SECONDS

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "ALONE_ROWS", 10)
    monkeypatch.setattr(checking, "BATCH_ROWS", 7)


def good_row(number: int) -> Row:
    return {"instruction": f"Count to {number % 150}.", "output": f"{number % 150} " * 3}


def mixed_rows() -> list[Row]:
    """Return rows with copies, bad ones, and columns that come late and in several orders."""
    rows = [good_row(number) for number in range(200)]
    for number in (3, 12, 20, 40, 41, 42, 180):
        rows[number]["output"] = " "
    for number in range(60, 200, 3):
        rows[number][f"note {number % 11}"] = "seen"
    rows[99] |= {"history": "Before.", "context": "About."}
    rows[120] |= {"context": "About.", "history": "Before."}
    rows[150] |= {"tools": ""}
    return rows


def write_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n\n" for row in rows), encoding="utf-8")


def write_array(path: Path, rows: list[Row]) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_csv(path: Path, rows: list[Row]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[Row]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    pq.write_table(pa.table(columns), path, row_group_size=64)


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {
    "rows.jsonl": write_lines,
    "rows.json": write_array,
    "rows.csv": write_csv,
    "rows.parquet": write_parquet,
}


def plan_by(
    monkeypatch: pytest.MonkeyPatch, num_processes: int, paths: Sequence[Path], **how: Any
) -> ShardPlan:
    monkeypatch.setattr(shard_plan, "num_checkers", lambda: num_processes)
    source = Source("rows", "rows", [str(path) for path in paths])
    return scan(source, None, **{"limit_rows": None, "skip_bad_rows": True, **how})


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("limit_rows", [None, 9, 10, 11, 24, 199])
def test_plan_is_that_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit_rows: int | None
) -> None:
    WRITERS[name](tmp_path / name, mixed_rows())

    plans = [
        plan_by(monkeypatch, number, [tmp_path / name], limit_rows=limit_rows)
        for number in (0, 1, 3)
    ]

    assert plans[1] == plans[0]
    assert plans[2] == plans[0]
    assert plans[0].num_rows == (limit_rows or 200)


def test_files_of_several_formats_are_one_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = mixed_rows()
    for number, (name, write) in enumerate(WRITERS.items()):
        write(tmp_path / name, rows[50 * number : 50 * number + 50])
    paths = [tmp_path / name for name in WRITERS]

    alone, together = (plan_by(monkeypatch, number, paths) for number in (0, 2))

    assert together == alone
    assert together.num_bad_rows == alone.num_bad_rows > 5


def test_names_beyond_those_that_are_remembered_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread, "MAX_NAMES", 20)
    rows = [good_row(n) | {f"own {n}": 1, f"also {n}": 2} for n in range(60)]
    rows[50] |= {"history": "", "images": []}
    write_lines(tmp_path / "rows.jsonl", rows)

    alone, together = (plan_by(monkeypatch, n, [tmp_path / "rows.jsonl"]) for n in (0, 2))

    assert together == alone
    assert together.refused == ["history", "images"]


@pytest.mark.parametrize("bad", [[2, 60], [11, 12], [60, 20, 199], [199]])
def test_first_bad_row_is_named_and_the_others_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: list[int]
) -> None:
    rows = [good_row(number) for number in range(200)]
    for number in bad:
        del rows[number]["output"]
    write_lines(tmp_path / "rows.jsonl", rows)
    said = []

    for number in (0, 3):
        with pytest.raises(BadRowError) as error:
            plan_by(monkeypatch, number, [tmp_path / "rows.jsonl"], skip_bad_rows=False)
        said.append(str(error.value))

    assert said[1] == said[0]
    assert f"rows.jsonl:{2 * min(bad) + 1} cannot be used" in said[1]
    assert not multiprocessing.active_children()


def test_more_bad_rows_than_a_pipe_holds_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "BATCH_ROWS", 2000)
    good = {"messages": [{"role": role, "content": "Hi."} for role in ("user", "assistant")]}
    bad = {"messages": [{"role": "x" * 400, "content": "Hi."}]}
    write_lines(tmp_path / "rows.jsonl", [good, *[bad] * 6000])

    plan = plan_by(monkeypatch, 2, [tmp_path / "rows.jsonl"])

    assert (plan.num_rows, plan.num_bad_rows, len(plan.bad_rows)) == (6001, 6000, 1000)


class FailingTemplate:
    """A template with a fault of its own, which is no row's."""

    name, text, heading = "failing-1", "", ""

    def segments(self, turns: Sequence[Turn], asks: bool = False) -> list[Segment]:
        if turns[0].text == "Count to 120.":
            raise RuntimeError("a fault of ours")
        return BY_HEADINGS.segments(turns, asks)


def test_fault_of_a_process_is_seen_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(tmp_path / "rows.jsonl", [good_row(number) for number in range(200)])

    with pytest.raises(RuntimeError, match="a fault of ours"):
        plan_by(monkeypatch, 2, [tmp_path / "rows.jsonl"], template=FailingTemplate())

    assert not multiprocessing.active_children()


def test_file_that_breaks_on_the_way_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_array(tmp_path / "rows.json", [good_row(number) for number in range(200)])
    text = (tmp_path / "rows.json").read_text(encoding="utf-8")
    (tmp_path / "rows.json").write_text(text[:-20], encoding="utf-8")

    with pytest.raises(BadRowError, match="broken or cut off here"):
        plan_by(monkeypatch, 2, [tmp_path / "rows.json"])

    assert not multiprocessing.active_children()


def fed(path: Path, num_rows: int, then: Callable[[], None]) -> None:
    """Give rows to two processes, do something, and give them the rest."""
    source = Source("rows", "rows", [str(path)])
    seen = SeenRows(source, None, BY_HEADINGS)
    with checked_by(seen, 2) as take:
        for number, row in enumerate(read_unparsed(str(path))):
            if number == num_rows:
                then()
            take(row)


def test_process_that_is_killed_is_told_in_words(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [good_row(number) for number in range(200)])

    def kill_one() -> None:
        process = multiprocessing.active_children()[0]
        process.kill()
        process.join()

    with pytest.raises(OSError, match="checks rows was killed"):
        fed(tmp_path / "rows.jsonl", 60, kill_one)

    assert not multiprocessing.active_children()


def test_reader_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [good_row(number) for number in range(200)])
    ours, theirs = os.pipe()
    reader = os.fork()
    if not reader:
        pids = [os.getpid()]

        def tell_and_die() -> None:
            pids[:] = [process.pid or 0 for process in multiprocessing.active_children()]
            os.write(theirs, json.dumps(pids).encode())
            os.kill(os.getpid(), signal.SIGKILL)

        fed(tmp_path / "rows.jsonl", 60, tell_and_die)
        os._exit(1)

    pids = json.loads(os.read(ours, 1000))
    status = os.waitpid(reader, 0)[1]
    checkers = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, left = psutil.wait_procs(checkers, timeout=HANGS_SECONDS)

    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(pids) == 2
    assert not left
