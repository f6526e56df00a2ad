"""A node that keeps failing or dragging, over all jobs, is bad for a while, and then it is not."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from instruct_core.events import SlowRank
from instruct_core.storage import patience
from jobs import bad_nodes
from jobs.bad_nodes import COUNTS_SECONDS, DAY, Kind, blame, blame_crash, forgive
from jobs.causes import cause_of_text
from jobs.job_folder import FAILED_CHECK
from jobs.surroundings import Place
from tests.jobs.reporters import reporter_in
from tests.slow_clock import Clock as SlowClock

NOW = 2_000_000_000.0


class Clock:
    """What the module knows of time."""

    now = NOW
    localtime, strftime = staticmethod(time.localtime), staticmethod(time.strftime)

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(bad_nodes, "time", clock)
    return clock


@pytest.fixture
def record(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record as a job on the cluster tux has it."""
    monkeypatch.setenv("INSTRUCT_BAD_NODES", str(tmp_path / "bad nodes"))
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "tux")
    return tmp_path / "bad nodes"


def fault(
    monkeypatch: pytest.MonkeyPatch, job: int, kind: Kind = "failed", node: str = "node2"
) -> None:
    monkeypatch.setenv("INSTRUCT_START", f"{job:010d}-0000")
    blame(node, kind, f"rank 1 of job {job}: Killed.", f"run-{job}")


def names(record: Path) -> list[str]:
    return [bad.node for bad in bad_nodes.bad_nodes(record)]


@pytest.mark.parametrize("kind", ["failed", "slow"])
def test_third_fault_of_any_jobs_makes_a_node_bad_for_a_day(
    record: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    seen = []
    for job in (1, 2, 3):
        fault(monkeypatch, job, kind)
        fault(monkeypatch, 7, node="node3")
        seen.append(names(record))
    [bad] = bad_nodes.bad_nodes(record)
    clock.now += DAY - 1
    almost = names(record)
    clock.now += 2

    assert seen == [[], [], ["node2"]]
    assert (bad.cluster, bad.until, bad.num_faults) == ("tux", NOW + DAY, 3)
    assert (bad.why, bad.runs) == ("rank 1 of job 3: Killed.", ["run-1", "run-2", "run-3"])
    assert (almost, names(record)) == (["node2"], [])


def test_node_that_was_bad_is_bad_again_with_its_next_fault_and_forgotten_after_a_week(
    record: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job in (1, 2, 3):
        fault(monkeypatch, job)
    clock.now += 2 * DAY
    fault(monkeypatch, 4)
    again = names(record)
    clock.now += COUNTS_SECONDS + 1
    fault(monkeypatch, 5)

    assert again == ["node2"]
    assert names(record) == []
    assert [path.name for path in record.glob("tux/node2/*")] == ["0000000005-0000-failed.json"]


def test_start_counts_once_however_often_it_blames(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        fault(monkeypatch, 1, "slow")

    assert names(record) == []


@pytest.mark.parametrize(
    ("error", "trace", "counts"),
    [
        ("rank 1 on node2: Killed.", "", True),
        ("no rank could be started on node2: Communication connection failure.", "", True),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "Traceback", True),
        ("MemoryError: ", "Traceback", False),
        ("OSError: [Errno 28] No space left on device", "Traceback", False),
        ("TypeError: nothing to do with the node", "Traceback", False),
        ("RuntimeError: what only the code can have raised", "Traceback: RuntimeError", False),
    ],
)  # fmt: skip
def test_only_what_may_be_the_nodes_fault_counts(
    record: Path, monkeypatch: pytest.MonkeyPatch, error: str, trace: str, counts: bool
) -> None:
    for job in (1, 2, 3):
        monkeypatch.setenv("INSTRUCT_START", f"{job:010d}-0000")
        blame_crash("node2", error, trace, cause_of_text(error, trace), "r")

    assert names(record) == ["node2"] * counts


def test_failed_first_check_suffices(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCT_START", "0000000001-0000")
    error = f"rank 0 on node2 {FAILED_CHECK}: a product is wrong."

    blame_crash("node2", error, "Traceback", cause_of_text(error), "r")

    assert names(record) == ["node2"]


@pytest.mark.parametrize("node", ["", "node[1-2]", "../../up", "a/b", ".", "no de"])
def test_what_is_no_name_of_one_node_is_not_written(
    record: Path, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    fault(monkeypatch, 1, "check", node)

    assert not record.exists()


def test_many_jobs_at_once_lose_no_fault(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCT_START", "0000000001-0000")
    starts = iter(range(40))
    monkeypatch.setattr(bad_nodes, "this_start", lambda: f"{next(starts):010d}-0000")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: blame("node2", "failed", "why", "r"), range(40)))

    assert bad_nodes.bad_nodes(record)[0].num_faults == 40


@pytest.mark.parametrize(
    "what",
    [
        "",
        "{",
        "[]",
        '{"format": 9, "when": 1}',
        '{"kind": "failed", "why": "x", "run": "r", "utc_seconds": "NaN"}',
    ],
)
def test_files_that_cannot_be_read_count_for_nothing(
    record: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    fault(monkeypatch, 1)
    fault(monkeypatch, 2)
    (record / "tux" / "node2" / "0000000003-0000-failed.json").write_text(what)
    (record / "tux" / "node2" / "folder.json").mkdir()
    (record / "notes").write_text("")

    assert names(record) == []
    fault(monkeypatch, 4)
    assert names(record) == ["node2"]


def test_clock_that_is_days_ahead_excludes_nobody_for_ever(
    record: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.now += 30 * DAY
    for job in (1, 2, 3):
        fault(monkeypatch, job)
    clock.now = NOW

    assert names(record) == []


def test_disk_that_refuses_ends_no_job(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.write_text("a file where the folder should be")

    fault(monkeypatch, 1)

    assert names(record) == []


def test_node_is_forgiven_by_hand(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for job in (1, 2, 3):
        fault(monkeypatch, job)
        fault(monkeypatch, job, node="node20")

    forgotten = forgive(record, "node2")

    assert forgotten == 3
    assert names(record) == ["node20"]


def test_reason_of_any_length_is_kept_short(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTRUCT_START", "0000000001-0000")

    blame("node2", "check", "x" * 10_000, "r")

    [path] = record.glob("tux/node2/*.json")
    assert len(json.loads(path.read_text())["why"]) == 300


def test_fault_that_a_disk_does_not_tell_of_now_is_read_again_and_not_left_out(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch, 1, "check")
    refused = [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * 2
    read = bad_nodes.read_json
    monkeypatch.setattr(patience, "time", SlowClock())

    def refuse_twice(path: Path) -> dict[str, Any]:
        if refused:
            raise refused.pop()
        return read(path)

    monkeypatch.setattr(bad_nodes, "read_json", refuse_twice)
    seen = names(record)
    refused.extend([OSError(errno.EIO, os.strerror(errno.EIO))] * 1000)

    assert seen == ["node2"]
    with pytest.raises(OSError, match="Input/output"):  # nobody knows, and says so
        names(record)


def test_training_does_not_wait_for_a_disk_that_fails(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = reporter_in(tmp_path, monkeypatch)
    reporter._places = [Place(1, "host1", "", "node1"), Place(2, "host2", "", "node2")]
    is_back, write = threading.Event(), bad_nodes.replace_json

    def late(path: Path, document: dict[str, Any]) -> None:
        assert is_back.wait(60), "nobody went on meanwhile"
        write(path, document)

    monkeypatch.setattr(bad_nodes, "replace_json", late)

    reporter.on_event(SlowRank(step=20, rank=1, seconds=2.0, usual_seconds=1.0))

    assert not names(record)
    [noting] = [thread for thread in threading.enumerate() if thread.name == "blame"]
    is_back.set()
    noting.join(60)
    assert [path.parent.name for path in record.rglob("*-slow.json")] == ["node2"]
