"""Commands about a run say where it lies, if that is not the usual place."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.storage.store import Store
from launch.runs.commands import filled, run_command


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_usual_place_is_not_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "checkpoints_instruct") / "r"

    assert run_command(store, "control", "resume") == "python launch/control.py r resume"
    assert run_command(store, "chat") == "python launch/chat.py --run r"


@pytest.mark.parametrize(
    ("place", "typed"),
    [
        ("{here}/runs of mine", "'runs of mine'"),
        ("/elsewhere", "/elsewhere"),
        ("memory://bucket/runs", "memory://bucket/runs"),
    ],
)
def test_another_place_is_named(place: str, typed: str, tmp_path: Path) -> None:
    store = Store(place.format(here=tmp_path)) / "r"

    assert run_command(store, "logs", "-f") == f"python launch/logs.py r -f --checkpoints {typed}"


def test_remedy_has_the_name_and_the_place_of_the_run() -> None:
    remedy = "make room: python launch/checkpoints.py prune RUN --dry-run; RUNS stay"

    said = filled(remedy, Store("/elsewhere") / "r")

    assert said == (
        "make room: python launch/checkpoints.py prune r --checkpoints /elsewhere --dry-run; RUNS stay"
    )
