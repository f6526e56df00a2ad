"""Which step of a run is meant: the newest, the best, or one by its number; the same for all commands."""

from __future__ import annotations

import math
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from instruct_core.checkpoints import steps as module
from instruct_core.errors import ConfigError, CorruptFileError, MissingError
from instruct_core.storage.store import Store
from launch.flags.checkpoints import Verify
from launch.flags.run import ModelFlags, check_model_flags
from launch.runs.checkpoints import verify
from launch.runs.run import Run
from launch.training.start import _is_finished
from tests.conftest import REPO
from tests.launch.runs.test_run import begin, damage, save
from tests.launch.test_errors import snapshot


def with_losses(project: Path, losses: dict[int, float | None]) -> Run:
    run = begin(project, "a")
    for step, loss in losses.items():
        save(run, step, val_loss=loss)
    return run


def test_best_step_is_the_one_with_the_least_validation_loss_of_equal_ones_the_newest(
    tmp_path: Path,
) -> None:
    run = with_losses(tmp_path, {1: 3.0, 2: 2.5, 3: 2.5, 4: 2.9, 5: None, 6: math.nan})

    assert run.good_step("best", pytest.fail) == 3
    assert run.good_step("newest", pytest.fail) == 6
    assert run.good_step(4, pytest.fail) == 4


def test_damaged_best_step_is_told_and_the_next_best_is_taken(tmp_path: Path) -> None:
    run = with_losses(tmp_path, {1: 3.0, 2: 2.5, 3: 2.7})
    damage(run, 2)
    lines: list[str] = []

    step = run.good_step("best", lines.append)

    assert step == 3
    [line] = lines
    assert "step-00000002/model.safetensors is corrupt" in line
    assert "Taking the next best" in line


def test_run_without_an_evaluation_has_no_best_step(tmp_path: Path) -> None:
    run = with_losses(tmp_path, {1: None, 2: None})

    with pytest.raises(MissingError, match=r"--step best .* run a has no step that was evaluated .*"
                       r"--eval-every.* Its steps: 1, 2\."):  # fmt: skip
        run.good_step("best", pytest.fail)


def test_step_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    run = with_losses(tmp_path, {1: 3.0, 20: 2.5})

    with pytest.raises(MissingError, match=r"--step 3 is not there in .*/a\. Its steps: 1, 20\."):
        run.good_step(3, pytest.fail)


def test_step_that_was_asked_for_by_its_number_is_taken_or_refused(tmp_path: Path) -> None:
    run = with_losses(tmp_path, {1: 3.0, 2: 2.5})
    damage(run, 1)

    with pytest.raises(CorruptFileError, match=r"step-00000001/.* is corrupt.* its steps: 1, 2\."):
        run.good_step(1, pytest.fail)


STEPS = {
    "evaluate": "evaluate.py --run a --out report",
    "chat": "chat.py --run a --prompt Hi.",
    "generate": "generate.py --run a --source questions.jsonl --out a.jsonl",
    "export": "checkpoints.py export a --out exported",
}
WRONG_STEPS = {
    "7": "--step 7 is not there in ",
    "best": "--step best is not there: run a has no step that was evaluated",
}


@pytest.mark.parametrize("step", WRONG_STEPS)
@pytest.mark.parametrize("command", STEPS)
def test_wrong_step_is_one_line_of_every_command(
    command: str,
    step: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save(begin(tmp_path, "a"), 1)
    (tmp_path / "questions.jsonl").write_text('{"prompt": "Hi."}\n')
    script, *words = STEPS[command].split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "20000")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    monkeypatch.setattr(sys, "argv", [script, *words, "--step", step])
    before = snapshot(tmp_path)

    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(REPO / "launch" / script), run_name="__main__")

    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.err.startswith(f"error: {WRONG_STEPS[step]}")
    assert said.err.count("\n") == 1
    assert not said.out
    assert snapshot(tmp_path) == before


def test_step_of_a_model_that_is_no_run_is_refused(tmp_path: Path) -> None:
    flags = ModelFlags(checkpoint=str(tmp_path), step="best")

    with pytest.raises(ConfigError, match="--step best is of a run, and --checkpoint"):
        check_model_flags(flags)


@pytest.fixture
def reads_badly_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A node that has kept a bad page of a file, which a look past its memory does not find."""
    monkeypatch.setattr(module, "LOOK_AGAIN_SECONDS", 0.0)
    real, left = Store.digest, ["f" * 32]

    def digest(store: Store, name: str) -> str:
        return left.pop() if left and name == "model.safetensors" else real(store, name)

    monkeypatch.setattr(Store, "digest", digest)
    return left


LOOKS: dict[str, Callable[[Run], bool]] = {
    "newest": lambda run: run.good_step("newest", pytest.fail) == 2,
    "best": lambda run: run.good_step("best", pytest.fail) == 2,
    "its number": lambda run: run.good_step(2, pytest.fail) == 2,
    "verify": lambda run: verify(Verify(run.name, checkpoints=run.checkpoints)) == 0,
    "finished": lambda run: _is_finished(run.config, run.store, [2]),
}


@pytest.mark.parametrize("look", LOOKS)
def test_bad_page_of_one_look_condemns_no_step(
    tmp_path: Path, reads_badly_once: list[str], look: str
) -> None:
    run = begin(tmp_path, "a", max_steps=2)
    for step, loss in ((1, 3.0), (2, 2.5)):
        save(run, step, val_loss=loss)

    assert LOOKS[look](run)

    assert reads_badly_once == []
