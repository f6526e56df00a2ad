"""run.json that somebody else or another version has written: read, or one line about one run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from instruct_core.errors import CorruptFileError
from instruct_core.events import Evaluated
from jobs.ledger import Ledger
from launch.console.lines import guarded
from launch.flags.slurm import SlurmFlags
from launch.flags.status import Status
from launch.runs.overview import show_status
from launch.runs.run import Run
from launch.training.settings import resumed_flags


def rewrite(project: Path, name: str, **changes: Any) -> Path:
    """Change run.json of the project's run, or of a copy with another name; return its path."""
    document = json.loads((project / "checkpoints" / "r" / "run.json").read_text())
    config = document["config"] | changes.pop("config", {})
    path = project / "checkpoints" / name / "run.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document | {"config": config} | changes))
    return path


def status(project: Path, *flags: str, **more: Any) -> int:
    places = {"checkpoints": str(project / "checkpoints"), "shards": str(project / "no_sets")}
    (project / "no_sets").mkdir(exist_ok=True)
    return guarded(lambda: show_status(Status(*flags, **places, **more)))


@pytest.mark.parametrize(
    "asked",
    [
        None, [], "x", {"slurm": None}, {"slurm": []}, {"nodes": "2"}, {"gpus": None}, {"init": 3},
        {"micro_batch_size": "8"}, {"notify": 3}, {"slurm": {"time": "1:00"}},
        {"slurm": {"setup": [3]}},
    ],
)  # fmt: skip
def test_launch_that_is_none_of_this_version_is_one_line(
    project: Path, asked: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewrite(project, "r", asked=asked)

    assert status(project, "r") == 2
    assert capsys.readouterr().err.startswith(f"error: {path} has no launch of this version under")
    with pytest.raises(CorruptFileError, match="under asked"):
        _ = Run.find("r", str(project / "checkpoints")).asked


@pytest.mark.parametrize("asked", [{}, {"slurm": {"time": 5, "new": [1]}, "newer": {"a": 1}}])
def test_launch_of_an_older_or_a_newer_version_is_read(
    project: Path, asked: Mapping[str, Any]
) -> None:
    rewrite(project, "r", asked=asked)

    run = Run.find("r", str(project / "checkpoints"))

    time = 5 if asked else None
    assert resumed_flags(run.config, run.asked).slurm == SlurmFlags(time=time)
    assert status(project, "r") == 0


def test_run_without_a_step_to_make_does_not_take_the_others_from_the_table(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(project, "z", config={"run": "z", "max_steps": 0})

    assert status(project) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "r", "z"]


def test_difference_of_a_run_that_diverged_is_json(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(project, "d", config={"run": "d", "learning_rate": float("nan")})
    for loss in (float("nan"), 3.0, 2.0, float("inf")):
        Ledger(Run.find("d", str(project / "checkpoints")).ledger, 0).note(Evaluated(4, loss))

    assert status(project, "r", diff="d", json=True) == 0

    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["differences"]["settings"]["learning_rate"] == [2e-5, None]
