"""A node that crashes again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.bad_nodes import bad_nodes, blame
from jobs.job_folder import Progress, write_progress
from jobs.survival.comeback import decide_comeback
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


def crash_twice_on_node2(batch: Batch) -> None:
    for step in (5, 6):
        (batch.folder / "asked").unlink(missing_ok=True)
        write_progress(batch.folder, Progress(state="running", committed=step))
        batch.said("srun: error: node2: task 3: Killed")
        decide_comeback()
