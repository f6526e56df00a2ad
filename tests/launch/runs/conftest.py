"""A run that tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.config import TrainConfig, to_json
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store


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
