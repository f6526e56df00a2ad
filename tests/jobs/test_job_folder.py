"""What a job leaves in its folder, as it lies there and as it is read."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from instruct_core.data.set_manifest import load_manifest
from instruct_core.errors import MissingError
from instruct_core.storage import patience
from instruct_core.storage.store import Store
from jobs.failures import (
    Failure,
    Outcome,
    failure_report,
    newest_failure,
    read_failures,
    read_outcome,
    write_failure,
    write_outcome,
)
from jobs.job_folder import Progress, read_progress, replace_json, write_progress


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSTRUCT_START", "0001")
    for module in ("failures", "job_folder"):
        monkeypatch.setattr(f"jobs.{module}.utc_seconds", lambda: 12.5)
    return tmp_path


def document(path: Path) -> list[tuple[str, Any]]:
    """Return a document's keys and values, in their order."""
    return list(json.loads(path.read_text()).items())


def test_progress_is_written_as_far_as_it_is_known(folder: Path) -> None:
    write_progress(folder, Progress(ledger="runs/r", state="running", attempt=0, committed=0))

    assert document(folder / "progress-0001.json") == [
        ("start", "0001"), ("updated_at", 12.5), ("ledger", "runs/r"), ("state", "running"),
        ("attempt", 0), ("committed", 0),
    ]  # fmt: skip
    assert read_progress(folder) == Progress(
        "0001", 12.5, "runs/r", state="running", attempt=0, committed=0
    )


def test_failure_and_outcome_are_written_as_ever(folder: Path) -> None:
    write_failure(folder, 2, "x", "Traceback ...", retry=True, node="node1")
    write_outcome(folder, "x", "", retry=False)

    assert document(folder / "failure-0001-2.json") == [
        ("utc_seconds", 12.5), ("rank", 2), ("node", "node1"), ("error", "x"),
        ("traceback", "Traceback ..."), ("retry", True),
    ]  # fmt: skip
    assert read_failures(folder) == [Failure(12.5, 2, "node1", "x", "Traceback ...", retry=True)]
    assert document(folder / "failed.json") == [
        ("start", "0001"), ("error", "x"), ("traceback", ""), ("retry", False),
    ]  # fmt: skip
    assert read_outcome(folder) == Outcome("0001", "x", "", retry=False)


def test_what_a_newer_version_adds_is_left_out(folder: Path) -> None:
    (folder / "progress-0001.json").write_text('{"committed": 5, "colour": "red"}')
    (folder / "failed.json").write_text(
        '{"start": "0001", "error": "x", "traceback": "", "retry": true, "colour": "red"}'
    )

    assert read_progress(folder) == Progress(committed=5)
    assert read_outcome(folder) == Outcome("0001", "x", "", retry=True)


@pytest.mark.parametrize(
    "text", ["", '{"committed": ', "[]", "null", '{"committed": "5"}', "[" * 100_000]
)
def test_half_of_a_file_is_none(folder: Path, text: str) -> None:
    for name in ("progress-0001.json", "failure-0001-0.json", "failed.json"):
        (folder / name).write_text(text)

    assert read_progress(folder) == Progress()
    assert read_failures(folder) == []
    assert read_outcome(folder) is None


@pytest.mark.parametrize(
    ("number", "away"), [(errno.EIO, True), (errno.ESTALE, True), (errno.ENOSPC, False)]
)
def test_rank_that_a_passing_fault_ends_is_no_crash_and_blames_no_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, away: bool
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")

    with pytest.raises(OSError, match=os.strerror(number)), failure_report(folder, 0):
        raise OSError(number, os.strerror(number), "r.bin")

    [failure] = read_failures(folder)
    assert (failure.away, failure.retry) == (away, True)
    assert failure.node == ("" if away else "node7")


def test_what_one_node_does_not_see_is_looked_for_again_as_after_a_crash(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")  # its mount is gone, or it has an old listing

    with pytest.raises(MissingError), failure_report(folder, 0):
        load_manifest(Store(str(folder / "shards")))

    [failure] = read_failures(folder)
    assert (failure.away, failure.retry, failure.node) == (False, True, "node7")
    assert failure.error.startswith("Shards ")


def test_first_word_of_a_rank_in_a_start_counts(folder: Path) -> None:
    for error in ("the cause", "what followed"):
        write_failure(folder, 0, error, "", retry=True)

    assert [failure.error for failure in read_failures(folder)] == ["the cause"]


def test_cause_is_named_first_whatever_the_nodes_clocks_say(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = (
        "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:4711"
    )
    # Rank 3 fails first, on the node whose clock is ahead; rank 2 sees its word, and rank 0 no more.
    for rank, at, error in (
        (3, 90.0, "CUDA error: x"),
        (2, 30.0, "ValueError: y"),
        (0, 20.0, lost),
    ):
        monkeypatch.setattr("jobs.failures.utc_seconds", lambda at=at: at)
        write_failure(folder, rank, error, "", retry=True)

    assert [failure.rank for failure in read_failures(folder)] == [3, 2, 0]
    newest = newest_failure(folder)
    assert newest is not None
    assert newest.rank == 3


def test_rank_that_lost_its_peer_is_no_cause_though_nobody_told_before_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank, at, error in (
        (0, 20.0, "NCCL error: remote process exited"),
        (3, 90.0, "IndexError: x"),
    ):
        monkeypatch.setattr("jobs.failures.utc_seconds", lambda at=at: at)
        write_failure(folder, rank, error, "", retry=True)

    assert [failure.rank for failure in read_failures(folder)] == [3, 0]


def test_word_of_a_rank_is_left_behind_where_the_disk_refuses_it_at_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.001)
    real, refusals = Path.replace, [errno.EIO, errno.ESTALE]

    def replace(path: Path, target: Path) -> Path:
        if refusals:
            raise OSError(refusals.pop(), "not now")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)

    write_failure(folder, 0, "the cause", "", retry=True)

    assert [failure.error for failure in read_failures(folder)] == ["the cause"]


def test_two_threads_that_write_one_document_at_once_do_not_meet(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two slow ranks of one node are noted."""
    real, place = Path.replace, folder / "slow.json"
    other = threading.Thread(target=replace_json, args=(place, {"rank": 1}))

    def replace(path: Path, target: Path) -> Path:
        if threading.current_thread() is not other:
            other.start()
            other.join(60)
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)

    replace_json(place, {"rank": 0})

    assert document(place) == [("rank", 0)]
    assert [path.name for path in folder.iterdir()] == ["slow.json"]


def test_word_that_ctrl_c_breaks_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)

    with pytest.raises(KeyboardInterrupt):
        replace_json(tmp_path / "word.json", {"a": 1})

    assert not list(tmp_path.iterdir())
