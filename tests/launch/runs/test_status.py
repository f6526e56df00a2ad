"""How runs stand, told from what they have left on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instruct_core.config import TrainConfig, to_json
from instruct_core.errors import CorruptFileError, MissingError
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store
from jobs.events import ShortLead
from jobs.ledger import Ledger
from launch.console.display import age
from launch.runs.run import Run
from launch.runs.status import RunStatus


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one run that was begun and is not training now."""
    config = TrainConfig(
        run="r", shards="s", checkpoints=str(tmp_path / "checkpoints"), runs=str(tmp_path / "runs"),
        init="random", model="tiny", data_fingerprint="f", max_steps=10,
    )  # fmt: skip
    document = {"format": 1, "config": to_json(config)}
    Store(tmp_path / "checkpoints" / "r").replace("run.json", dump_document(document))
    (tmp_path / "runs" / "r" / "job" / "0000").mkdir(parents=True)
    return tmp_path


def status_of(project: Path) -> RunStatus:
    return RunStatus.of(Run.find("r", str(project / "checkpoints")))


def leave(project: Path, name: str, **document: object) -> None:
    (project / "runs" / "r" / "job" / "0000" / name).write_text(json.dumps(document))


def test_run_that_has_said_nothing_is_not_started(project: Path) -> None:
    status = status_of(project)

    assert (status.state(), status.step(), status.attempt(), status.last_save()) == (
        "not started", "0 of 10", "", "",
    )  # fmt: skip


def test_newest_start_counts(project: Path) -> None:
    leave(project, "progress-0000000007-0000.json", state="running", global_step=4)
    leave(project, "progress-0000000007-0001.json", state="stopped", global_step=6)

    assert status_of(project).state() == "stopped"
    assert status_of(project).step() == "6 of 10"


def test_run_that_failed_says_why(project: Path) -> None:
    leave(project, "progress-0000.json", state="running", global_step=4)
    leave(project, "failed.json", start="0000", error="disk on fire", traceback="", retry=True)

    assert status_of(project).state() == "failed"
    assert "disk on fire" in status_of(project).note()


def test_lead_that_is_too_short_is_said(project: Path) -> None:
    ledger = Ledger(Store(project / "runs" / "r"), attempt=0)
    ledger.note(ShortLead(lead_seconds=20.0, needed_seconds=86.0))

    told = "warning comes 20 s before the end, and a step and a save need 86 s"
    assert told in status_of(project).note()


def test_run_of_a_moved_project_is_found_where_it_lies_now(project: Path) -> None:
    leave(project, "progress-0000.json", state="finished", global_step=10)
    moved = project.rename(project.with_name("elsewhere"))

    assert status_of(moved).state() == "finished"


def test_missing_and_damaged_runs_are_named(project: Path) -> None:
    with pytest.raises(MissingError, match="Run x is not there"):
        Run.find("x", str(project / "checkpoints"))

    (project / "checkpoints" / "r" / "slurm.json").write_text("{")
    with pytest.raises(CorruptFileError, match=r"slurm\.json is damaged"):
        status_of(project)


def test_ages_are_said_as_a_person_says_them() -> None:
    assert [age(5), age(119), age(7200), age(86400 * 3)] == ["5 s", "119 s", "2 hours", "3 days"]
