"""A pipe in the place of any file that a run has left: no command waits for somebody to write into it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from instruct_core.errors import CorruptFileError
from launch.flags.logs import Logs
from launch.runs.curves import read_curves
from launch.runs.log import show_log
from launch.runs.run import Run
from launch.runs.status import RunStatus

pytestmark = pytest.mark.timeout(60)
CHECKPOINTS, RUNS = "checkpoints/r", "runs/r"


def look(project: Path) -> object:
    """Ask what status and report ask."""
    status = RunStatus.of(Run.find("r", str(project / "checkpoints")))
    seen = status.state(), status.step(), status.note(), status.job_id(), status.receipt()
    return *seen, read_curves(status.run.ledger, ())


def read_log(project: Path) -> object:
    return show_log(Logs("r", checkpoints=str(project / "checkpoints")))


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (look, f"{CHECKPOINTS}/run.json"),
        (look, f"{CHECKPOINTS}/lock"),
        (look, f"{CHECKPOINTS}/slurm.json"),
        (look, f"{RUNS}/attempt-0000.jsonl"),
        (look, f"{RUNS}/events.out.tfevents.1796031049.node.1.0"),
        (read_log, f"{RUNS}/job/0000/12_0_log.out"),
    ],
)
def test_pipe_in_the_place_of_what_is_needed_is_named(
    project: Path, ask: Callable[[Path], object], name: str
) -> None:
    (project / name).unlink(missing_ok=True)
    os.mkfifo(project / name)

    with pytest.raises(CorruptFileError, match=name):
        ask(project)


@pytest.mark.parametrize("name", ["progress-0000.json", "failed.json", "failure-0000-0.json"])
def test_pipe_in_the_place_of_a_jobs_word_says_nothing(project: Path, name: str) -> None:
    before = look(project)

    os.mkfifo(project / RUNS / "job" / "0000" / name)

    assert look(project) == before
