"""What lies in a step folder: nothing hostile is believed, and others can read it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.steps import step_name
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import PRESETS
from instruct_core.errors import CorruptFileError
from instruct_core.model.gpt2 import GPT2
from instruct_core.storage import tensor_file
from instruct_core.storage.store import Store
from instruct_core.train.rng import restore_rng, rng_state
from tests.fakes import facts_of
from tests.instruct_core.checkpoints.test_writer import save


def test_endless_manifest_is_not_read_to_its_end(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Store(tmp_path))
    checkpoints.claim_attempt()
    save(checkpoints, 1)
    save(checkpoints, 2)
    manifest = tmp_path / step_name(2) / "manifest.json"
    with manifest.open("r+b") as file:
        file.truncate(10 << 30)  # 10 GB that take no space

    damaged: list[str] = []
    loaded = load_newest(checkpoints, on_damaged=damaged.append)

    assert loaded is not None
    assert loaded.step == 1
    assert "has more than 67,108,864 bytes: no document of ours" in damaged[0]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    checkpoints = Checkpoints(Store(tmp_path))
    checkpoints.claim_attempt()
    save(checkpoints, 1)
    save(checkpoints, 2)
    manifest = tmp_path / step_name(2) / "manifest.json"
    manifest.unlink()
    if kind == "pipe":
        os.mkfifo(manifest)
    elif kind == "device":
        manifest.symlink_to("/dev/zero")
    else:
        manifest.mkdir()

    loaded = load_newest(checkpoints)

    assert loaded is not None
    assert loaded.step == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_files_that_others_may_write_are_warned_of(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Store(tmp_path))
    checkpoints.claim_attempt()
    save(checkpoints, 1)
    path = tmp_path / step_name(1) / "model.safetensors"
    warnings: list[str] = []

    for owner, mode in ((0, 0o664), (12345, 0o644), (12345, 0o664)):
        assert warnings == []
        os.chown(path, owner, owner)
        path.chmod(mode)
        load_newest(checkpoints, on_foreign=warnings.append)

    assert len(warnings) == 1
    assert f"{path} belongs to another user, and others may write it" in warnings[0]


def test_transformers_loads_a_step_folder(tmp_path: Path) -> None:
    model = GPT2(PRESETS["tiny"])
    model.initialize(1)
    checkpoints = Checkpoints(Store(tmp_path))
    checkpoints.claim_attempt()
    config = model.config.hugging_face
    snapshot = checkpoints.take(3, model.state_dict(), config, {}, rng_state(), facts_of(3))
    checkpoints.write(snapshot, Keep())

    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / step_name(3))

    assert torch.equal(theirs.transformer.wte.weight, model.head_weight)
    assert torch.equal(theirs.lm_head.weight, model.head_weight)


def test_official_library_reads_every_type_we_write(tmp_path: Path) -> None:
    types = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    expected = {str(dtype): torch.ones((3, 1), dtype=dtype) for dtype in types}
    checkpoints = Checkpoints(Store(tmp_path))
    checkpoints.claim_attempt()

    checkpoints.write(checkpoints.take(1, expected, {}, {}, rng_state(), facts_of(1)), Keep())

    found = load_file(tmp_path / step_name(1) / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_random_numbers_go_on_where_they_were() -> None:
    import random

    import numpy as np

    random.gauss(0, 1)
    np.random.normal()
    state = rng_state()
    first = (random.gauss(0, 1), random.random(), np.random.normal(), torch.rand(3).tolist())

    restore_rng(state)

    again = (random.gauss(0, 1), random.random(), np.random.normal(), torch.rand(3).tolist())
    assert again == first


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 8, b"\xff" * 20, b"\x02\x00\x00\x00\x00\x00\x00\x00{}x",
             b"\x05\x00\x00\x00\x00\x00\x00\x00[1,2]"]
)  # fmt: skip
def test_broken_safetensors_file_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptFileError, match="is no complete safetensors file"):
        tensor_file.parse_header(data, "file x")
