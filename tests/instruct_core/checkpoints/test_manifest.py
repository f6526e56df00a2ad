"""What a manifest says, byte for byte as ever, and what is refused that somebody else has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instruct_core.checkpoints.manifest import FileEntry, Manifest, Progress, manifest_in
from instruct_core.checkpoints.steps import read_manifest
from instruct_core.config import ModelConfig
from instruct_core.errors import CorruptFileError
from instruct_core.storage.documents import seal
from instruct_core.storage.store import Store

FILES = ("config.json", "model.safetensors", "state-00000-of-00001.safetensors")
MANIFEST = Manifest(
    global_step=1,
    attempt=0,
    world_size=1,
    saved_at=12.5,
    run="r",
    identity={"seed": 1},
    versions={"torch": "2"},
    git_commit="abc",
    model=ModelConfig(num_layers=1, num_heads=1, width=8, max_seq_len=8, vocab_size=8),
    progress=Progress(1, 8, 512, evaluated_at_step=1, val_loss=2.5),
    files=[FileEntry(name, 10_000, "0" * 32) for name in FILES],
)
ENTRY = {"file": "config.json", "bytes": 1, "xxh3": ""}
MODEL = {"num_layers": 1, "num_heads": 1, "width": 8}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def leave(store: Store, change: dict[str, Any]) -> None:
    """Seal a manifest of step 1, as somebody would who wants to be believed."""
    store.replace("step-00000001/manifest.json", seal(MANIFEST.document | change))


def test_document_has_its_keys_in_their_order_and_comes_back(store: Store) -> None:
    leave(store, {})

    document = json.loads(store.read("step-00000001/manifest.json"))
    assert list(document) == [
        "format", "global_step", "attempt", "world_size", "saved_at", "run", "identity", "versions",
        "git_commit", "model", "progress", "files", "xxh3",
    ]  # fmt: skip
    assert list(document["progress"]) == [
        "global_step", "samples_seen", "tokens_seen", "skipped_steps", "non_finite_in_a_row",
        "evaluated_at_step", "val_loss",
    ]  # fmt: skip
    assert list(document["model"]) == [
        "num_layers", "num_heads", "width", "max_seq_len", "vocab_size",
    ]  # fmt: skip
    assert list(document["files"][0]) == ["file", "bytes", "xxh3"]
    assert read_manifest(store, 1) == MANIFEST


def test_field_of_a_newer_version_is_left_out(store: Store) -> None:
    leave(store, {"colour": "red", "progress": MANIFEST.document["progress"] | {"epoch": 3}})

    assert read_manifest(store, 1) == MANIFEST


@pytest.mark.parametrize(
    "change",
    [
        {"files": [ENTRY | {"file": "../../secret"}]},
        {"files": [ENTRY | {"file": "/etc/passwd"}]},
        {"files": [ENTRY | {"bytes": "1"}]},
        {"files": [ENTRY | {"bytes": -1}]},
        {"files": [ENTRY | {"bytes": True}]},
        {"files": [{"bytes": 1}]},
        {"files": [ENTRY]},
    ],
)
def test_further_file_that_would_lead_astray_is_refused(
    store: Store, change: dict[str, list[Any]]
) -> None:
    leave(store, {"files": MANIFEST.document["files"] + change["files"]})

    with pytest.raises(CorruptFileError, match="is no manifest of this format: "):
        read_manifest(store, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"files": None}, "expected list @ $.files"),
        ({"world_size": 10**12}, "world_size is 1000000000000"),
        ({"world_size": 0}, "world_size is 0"),
        ({"world_size": "1"}, "'1' is no int @ $.world_size"),
        ({"global_step": 2}, "global_step is 2"),
        ({"format": 99}, "format is 99"),
        ({"attempt": -3}, "attempt is -3"),
        ({"saved_at": float("nan")}, "saved_at is nan"),
        ({"model": MODEL | {"width": 10**9}}, "model is "),
        ({"model": MODEL | {"num_layers": 10**6}}, "model is "),
        ({"model": MODEL | {"num_heads": 0}}, "model is "),
        ({"model": MODEL | {"command": "rm"}}, "extra fields found (command)"),
        ({"progress": {"global_step": 1}}, "required field missing @ $.progress.samples_seen"),
        (
            {"progress": {"global_step": 1, "samples_seen": -1, "tokens_seen": 0}},
            "samples_seen is -1",
        ),
        ({"progress": {"global_step": 7, "samples_seen": 0, "tokens_seen": 0}}, "progress is "),
        ({"loss_scale": {"value": float("nan"), "steps": 0}}, "loss_scale is "),
        ({"loss_scale": {"value": 0.5, "steps": 0}}, "loss_scale is "),
        ({"loss_scale": {"value": 2.0**25, "steps": 0}}, "loss_scale is "),
        ({"loss_scale": {"value": 2.0, "steps": -1}}, "loss_scale is "),
        ({"loss_scale": {"value": 2.0, "steps": 10**400}}, "loss_scale is "),
        ({"loss_scale": {"value": "2", "steps": 0}}, "'2' is no float"),
        ({"loss_scale": {"value": 2.0}}, "required field missing"),
    ],
)
def test_manifest_that_would_lead_astray_is_refused(
    store: Store, change: dict[str, Any], reason: str
) -> None:
    leave(store, change)

    with pytest.raises(CorruptFileError, match="is no manifest of this format: ") as caught:
        read_manifest(store, 1)

    assert reason in str(caught.value)


def test_validation_loss_is_that_of_this_very_step(store: Store) -> None:
    progress = MANIFEST.document["progress"]

    losses = []
    for change in ({}, {"evaluated_at_step": 0}, {"val_loss": None}, {"val_loss": float("nan")}):
        leave(store, {"progress": progress | change})
        losses.append(manifest_in(store / "step-00000001").val_loss)

    assert losses == [2.5, None, None, None]
