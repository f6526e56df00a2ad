"""A run that tests look at, and a command that is refused."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from instruct_core.config import TrainConfig, to_json
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store
from tests.conftest import REPO
from tests.launch.test_errors import snapshot

Refusal = Callable[..., str]


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


@pytest.fixture
def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refusal:
    """Type a command in a project: it is refused with exit code 2, and this line; nothing changes."""
    (tmp_path / "questions.jsonl").write_text('{"prompt": "Hi."}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "20000")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")

    def refuse(script: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *words])
        before = snapshot(tmp_path)

        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(REPO / "launch" / script), run_name="__main__")

        said = capsys.readouterr()
        assert stop.value.code == 2, said
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert not said.out
        assert snapshot(tmp_path) == before
        return said.err.removeprefix("error: ")

    return refuse
