"""The base that small adapters stand on, as a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.storage.documents import dump_document
from tests.instruct_core.model.small_adapters import SHAPE, base_model, put


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    put(tmp_path / "base", "model.safetensors", dict(base_model().state_dict()))
    (tmp_path / "base" / "config.json").write_bytes(dump_document(SHAPE.hugging_face))
    return tmp_path / "base"
