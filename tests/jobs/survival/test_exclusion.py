"""A node that crashes again and again."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.bad_nodes import DAY, BadNode, bad_nodes, blame
from jobs.job_folder import Progress, write_progress
from jobs.survival import exclusion
from jobs.survival.comeback import decide_comeback
from jobs.survival.exclusion import exclude_anew
from tests.jobs.survival.conftest import Batch


@pytest.mark.parametrize(
    "death",
    [
        "srun: error: node2: task 3: Killed",
        "srun: error: Task launch for StepId=7.0 failed on node node2: Communication connection failure",
    ],
)
def test_node_that_failed_twice_in_a_row_is_excluded(batch: Batch, death: str) -> None:
    for step in (5, 6):
        (batch.folder / "asked").unlink(missing_ok=True)
        batch.start(step)
        write_progress(batch.folder, Progress(state="running", committed=step))
        batch.said(death)
        decide_comeback()

    assert batch.asked() == ["scontrol requeue 7", "scontrol update JobId=7 ExcNodeList=node2"]


def test_node_is_excluded_whatever_else_is_told_of_each(batch: Batch) -> None:
    batch.kinds('"node$n|gpu:4(S:0-$n)|rack$n,node$n"')
    crash_twice_on_node2(batch)

    assert batch.asked()[-1] == "scontrol update JobId=7 ExcNodeList=node2"


def test_node_is_kept_where_the_others_lack_what_the_job_asked_for(batch: Batch) -> None:
    batch.slurm_facts = "Features=a100"
    batch.slurm()
    batch.kinds('"node$n|gpu:4|rack$n,$([ $n = 2 ] && echo a100)"')
    crash_twice_on_node2(batch)

    assert batch.asked() == ["scontrol requeue 7"]


def test_follow_up_does_without_what_the_job_did_without(batch: Batch) -> None:
    batch.slurm_facts = "Requeue=0 ExcNodeList=node9"
    batch.slurm()
    crash_twice_on_node2(batch)

    assert "--exclude=node9,node2" in batch.asked()[-1]


def test_nodes_that_were_bad_to_other_jobs_are_excluded_as_well(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_BAD_NODES", str(tmp_path / "bad"))
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "tux")
    for start in ("0000000003-0000", "0000000004-0000", "0000000005-0000"):
        monkeypatch.setenv("INSTRUCT_START", start)
        blame("node3", "slow", "rank 3 is slow", "other")
        blame("node9", "slow", "it is of another partition", "other")
    monkeypatch.setenv("INSTRUCT_START", "0001")
    write_progress(batch.folder, Progress(state="running", committed=5))
    batch.said("srun: error: node2: task 3: Killed")

    decide_comeback()

    assert batch.asked() == ["scontrol requeue 7", "scontrol update JobId=7 ExcNodeList=node3"]
    assert [bad.node for bad in bad_nodes(tmp_path / "bad")] == ["node3", "node9"]
    [fault] = (tmp_path / "bad" / "tux" / "node2").iterdir()
    assert fault.name == "0001-failed.json"


def test_bad_node_is_kept_where_too_few_others_are_up(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_BAD_NODES", str(tmp_path / "bad"))
    for node in ("node1", "node3"):
        blame(node, "check", "a product is wrong", "other")
    write_progress(batch.folder, Progress(state="running", committed=5))
    batch.said("srun: error: node2: task 3: Killed")

    decide_comeback()

    assert batch.asked()[1:] == ["scontrol update JobId=7 ExcNodeList=node1"]


def test_node_whose_day_is_over_comes_back_and_what_a_person_excluded_does_not(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_BAD_NODES", str(tmp_path / "bad"))
    monkeypatch.setenv("INSTRUCT_BAD_AT_LAUNCH", "node1,node3")  # when it was launched
    blame("node3", "check", "a product is wrong", "other")  # and today again
    batch.slurm_facts = "ExcNodeList=node1,node3,node9"
    batch.slurm()

    exclude_anew()

    assert batch.asked() == ["scontrol update JobId=7 ExcNodeList=node3,node9"]


@pytest.mark.parametrize("days", [1.01, -1.01])  # before that the clock was a day ahead
def test_node_that_failed_twice_is_given_back_after_a_day(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, days: float
) -> None:
    crash_twice_on_node2(batch)
    batch.slurm_facts = "ExcNodeList=node2"
    batch.slurm()
    (batch.folder / "asked").unlink()

    exclude_anew()
    before = batch.asked()
    later = time.time() + days * DAY
    monkeypatch.setattr(exclusion, "time", SimpleNamespace(time=lambda: later))
    exclude_anew()

    assert before == []
    assert batch.asked() == ["scontrol update JobId=7 ExcNodeList="]


def test_follow_up_gets_back_a_node_that_stands_in_the_script(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTRUCT_BAD_AT_LAUNCH", "node3")
    batch.slurm_facts = "Requeue=0 ExcNodeList=node3"
    batch.slurm()
    write_progress(batch.folder, Progress(state="requeued", committed=5))

    decide_comeback()

    assert "--exclude= " in batch.asked()[-1]


def test_nothing_is_asked_of_slurm_where_no_node_was_ever_bad(batch: Batch) -> None:
    exclude_anew()

    assert not (batch.folder / "asked").exists()


def test_nodes_stay_excluded_where_nobody_can_tell_which_are_bad(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(folder: Path, cluster: str) -> list[BadNode]:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(exclusion, "bad_nodes", unreadable)
    monkeypatch.setenv("INSTRUCT_BAD_NODES", str(tmp_path))
    monkeypatch.setenv("INSTRUCT_BAD_AT_LAUNCH", "node1")
    batch.slurm_facts = "ExcNodeList=node1"
    batch.slurm()

    exclude_anew()

    assert batch.asked() == []


def crash_twice_on_node2(batch: Batch) -> None:
    for step in (5, 6):
        (batch.folder / "asked").unlink(missing_ok=True)
        batch.start(step)
        write_progress(batch.folder, Progress(state="running", committed=step))
        batch.said("srun: error: node2: task 3: Killed")
        decide_comeback()
