"""How a run is found, by every command: one rule for its name, one for its newest good step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from instruct_core.checkpoints.manifest import FileEntry, Manifest, state_name
from instruct_core.checkpoints.steps import step_name
from instruct_core.config import TrainConfig, to_json
from instruct_core.errors import ConfigError, MissingError
from instruct_core.storage.documents import dump_document, seal
from instruct_core.storage.store import Store
from launch.runs.run import Run, runs_in
from tests.fakes import facts_of
from tests.launch.runs.conftest import Refusal

CONTENT = b"abc" * 40


def begin(project: Path, name: str, max_steps: int = 10) -> Run:
    """Write down a run as a launcher does, below the checkpoints of a project."""
    checkpoints = project / "checkpoints_instruct"
    config = TrainConfig(
        run=name, shards=str(project / "shards/x"), checkpoints=str(checkpoints),
        runs=str(project / "runs_instruct"), init="random", model="tiny", data_fingerprint="f",
        max_steps=max_steps,
    )  # fmt: skip
    run = Run(name, Store(checkpoints / name))
    run.store.replace("run.json", dump_document({"format": 1, "config": to_json(config)}))
    return run


def save(run: Run, step: int, saved_at: float = 1.0, val_loss: float | None = None) -> None:
    """Leave a step that verifies: three files of a few bytes."""
    folder = run.store / step_name(step)
    files = [
        FileEntry(name, len(CONTENT), folder.put(name, [memoryview(CONTENT)]))
        for name in ("config.json", "model.safetensors", state_name(0, 1))
    ]
    manifest = Manifest(
        global_step=step, attempt=0, world_size=1, saved_at=saved_at, files=files,
        **facts_of(step, val_loss),
    )  # fmt: skip
    folder.claim("manifest.json", seal(manifest.document))


def damage(run: Run, step: int) -> None:
    run.store.local_path(f"{step_name(step)}/model.safetensors").write_bytes(CONTENT[::-1])


COMMANDS = {
    "status": "status.py NAME",
    "logs": "logs.py NAME",
    "checkpoints ls": "checkpoints.py ls NAME",
    "checkpoints verify": "checkpoints.py verify NAME",
    "checkpoints prune": "checkpoints.py prune NAME --keep 1",
    "checkpoints export": "checkpoints.py export NAME --out exported",
    "report": "report.py NAME --out page.html",
    "control": "control.py NAME stop",
    "evaluate": "evaluate.py --run NAME --out report",
    "chat": "chat.py --run NAME --prompt Hi.",
    "serve": "serve.py --run NAME --port 0",
    "generate": "generate.py --run NAME --source questions.jsonl --out a.jsonl",
    "finetune": "finetune.py --run NAME --shards shards/x --model tiny --init random",
}


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
@pytest.mark.parametrize("command", COMMANDS)
def test_name_that_leaves_the_folder_of_the_runs_is_refused_by_every_command_as_it_was_typed(
    command: str, name: str, tmp_path: Path, refusal: Refusal
) -> None:
    run = begin(tmp_path, name)  # it is there, so nothing but its name is wrong
    save(run, 1)
    words = COMMANDS[command].split()

    line = refusal(*(name if word == "NAME" else word for word in words))

    typed = "--run" if "--run" in words else "RUN"
    assert re.match(f"{typed} must be a (run's )?plain name", line)
    assert repr(name) in line


def test_missing_run_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    begin(tmp_path, "a")
    begin(tmp_path, "b")

    with pytest.raises(MissingError, match=r"Run c is not there: no .*/c/run\.json\. .*: a, b\."):
        Run.find("c", str(tmp_path / "checkpoints_instruct"))


def test_folder_without_settings_is_no_run(tmp_path: Path) -> None:
    begin(tmp_path, "a")
    (tmp_path / "checkpoints_instruct" / "other" / step_name(1)).mkdir(parents=True)

    names = [run.name for run in runs_in(str(tmp_path / "checkpoints_instruct"))]

    assert names == ["a"]
    with pytest.raises(MissingError, match="Run other is not there"):
        Run.find("other", str(tmp_path / "checkpoints_instruct"))


def test_relative_place_of_checkpoints_becomes_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path, "a")
    monkeypatch.chdir(tmp_path)

    run = Run.find("a", "checkpoints_instruct")

    assert run.checkpoints == str(tmp_path / "checkpoints_instruct")
    assert run.step_place(3) == str(tmp_path / "checkpoints_instruct" / "a" / step_name(3))


def test_run_that_saved_last_is_found_without_a_name(tmp_path: Path) -> None:
    for name, saved_at in (("a", 5.0), ("b", 9.0), ("c", 7.0)):
        save(begin(tmp_path, name), 1, saved_at)
    begin(tmp_path, "d")  # which has not saved

    assert Run.find(None, str(tmp_path / "checkpoints_instruct")).name == "b"


def test_damaged_manifest_of_another_run_is_in_nobodys_way(tmp_path: Path) -> None:
    save(begin(tmp_path, "a"), 1, saved_at=5.0)
    other = begin(tmp_path, "b")
    save(other, 1, saved_at=4.0)
    save(other, 2, saved_at=9.0)
    other.store.local_path(f"{step_name(2)}/manifest.json").write_text("{")

    assert Run.latest(str(tmp_path / "checkpoints_instruct")).name == "a"


def test_nobody_has_saved_yet(tmp_path: Path) -> None:
    begin(tmp_path, "a")

    with pytest.raises(MissingError, match="has saved yet"):
        Run.latest(str(tmp_path / "checkpoints_instruct"))


def test_damaged_steps_are_told_to_who_asks_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(tmp_path, "a")
    for step in (1, 2, 3):
        save(run, step)
    damage(run, 3)
    lines: list[str] = []

    step = run.newest_good_step(lines.append)

    assert step == 2
    [line] = lines
    assert "step-00000003/model.safetensors is corrupt" in line
    assert "Taking the one before" in line
    assert capsys.readouterr() == ("", "")


def test_run_with_no_good_step_is_told(tmp_path: Path) -> None:
    run = begin(tmp_path, "a")
    save(run, 1)
    damage(run, 1)

    with pytest.raises(MissingError, match="Run a has no checkpoint that can be loaded yet"):
        run.newest_good_step([].append)


def test_place_that_cannot_be_reached_is_one_line_about_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with pytest.raises(ConfigError, match="--checkpoints s3://nobody/x cannot be used"):
        Run.find("a", "s3://nobody/x")


def test_step_folder_knows_its_run(tmp_path: Path) -> None:
    run = begin(tmp_path, "a")

    found = Run.of_step(f"{run.step_place(3)}/")

    assert found is not None
    assert (found.name, found.store.url) == ("a", run.store.url)
    assert Run.of_step(str(tmp_path / "elsewhere" / step_name(3))) is None
    assert Run.of_step(run.store.where("exported")) is None


def test_places_of_a_moved_project_lie_beside_its_checkpoints(tmp_path: Path) -> None:
    begin(tmp_path / "old", "a")
    moved = (tmp_path / "old").rename(tmp_path / "new")

    run = Run.find("a", str(moved / "checkpoints_instruct"))

    assert run.config.shards == str(moved / "shards/x")
    assert run.job_parent == moved / "runs_instruct" / "a" / "job"
    assert run.ledger.url == str(moved / "runs_instruct" / "a")
    assert run.lock == moved / "checkpoints_instruct" / "a" / "lock"
    assert run.slurm_note == moved / "checkpoints_instruct" / "a" / "slurm.json"
