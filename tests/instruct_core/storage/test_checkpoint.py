"""The second and fourth promise on one rank: damage is named, the one before serves, or it stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from instruct_core.config import PRESETS
from instruct_core.errors import CorruptFileError, FencedError, NoCheckpointError
from instruct_core.model.export import hugging_face_config
from instruct_core.model.gpt2 import GPT2
from instruct_core.storage import tensor_file
from instruct_core.storage.checkpoint import Checkpoints
from instruct_core.storage.documents import load_sealed, seal
from instruct_core.storage.loading import load_newest
from instruct_core.storage.retention import Keep, Removed
from instruct_core.storage.steps import committed_steps, read_manifest, step_name
from instruct_core.storage.store import Store
from instruct_core.train.rng import restore_rng, rng_state


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 5), float(step)), "b": torch.arange(step), "c": torch.tensor(1.5)}


@pytest.fixture(params=["file", "memory"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    url = f"memory://{tmp_path.name}" if request.param == "memory" else str(tmp_path / "run")
    checkpoints = Checkpoints(Store(url))
    checkpoints.claim_attempt()
    return checkpoints


def save(
    checkpoints: Checkpoints,
    step: int,
    keep: Keep = Keep(),  # noqa: B008  an immutable tuple
    val_loss: float | None = None,
) -> Removed:
    progress = {
        "global_step": step, "samples_seen": step, "tokens_seen": step,
        "evaluated_at_step": step, "val_loss": val_loss,
    }  # fmt: skip
    snapshot = checkpoints.take(
        step, tensors(step), {"model_type": "gpt2"}, tensors(step + 1), rng_state(),
        {"x": 1, "progress": progress},
    )  # fmt: skip
    return checkpoints.write(snapshot, keep)


def change(store: Store, name: str, how: Callable[[bytearray], bytearray]) -> None:
    data = how(bytearray(store.read(name)))
    store.remove(name)
    store.replace(name, bytes(data))


def flip_a_bit(data: bytearray) -> bytearray:
    data[len(data) // 2] ^= 1
    return data


def test_everything_comes_back_as_it_was(checkpoints: Checkpoints) -> None:
    save(checkpoints, 7)

    loaded = load_newest(checkpoints)

    assert loaded is not None and loaded.step == 7 and loaded.manifest["x"] == 1
    for found, expected in ((loaded.model, tensors(7)), (loaded.optimizer, tensors(8))):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loaded.rng is not None and torch.equal(loaded.rng["torch"], torch.get_rng_state())


def test_last_three_are_kept(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3, 4, 5):
        save(checkpoints, step)

    assert committed_steps(checkpoints.store) == [3, 4, 5]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json",
                                  "state-00000-of-00001.safetensors"])  # fmt: skip
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_file_is_named_set_aside_and_the_one_before_is_used(
    checkpoints: Checkpoints, name: str, damage: str
) -> None:
    save(checkpoints, 1)
    save(checkpoints, 2)
    path = f"{step_name(2)}/{name}"
    if damage == "gone":
        checkpoints.store.remove(path)
    else:
        change(checkpoints.store, path, flip_a_bit if damage == "flip" else lambda d: d[:-1])

    damaged: list[str] = []
    loaded = load_newest(checkpoints, on_damaged=damaged.append)

    assert loaded is not None and loaded.step == 1
    assert len(damaged) == 1 and name in damaged[0]
    assert "damaged-step-00000002-attempt-0000" in checkpoints.store.names()
    save(checkpoints, 2)
    assert committed_steps(checkpoints.store) == [1, 2]


def test_run_that_saved_does_not_start_over_when_nothing_loads(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    change(checkpoints.store, f"{step_name(1)}/model.safetensors", flip_a_bit)

    for _ in range(2):
        with pytest.raises(NoCheckpointError, match="does not start over by itself"):
            load_newest(checkpoints)


def test_run_whose_step_folders_were_deleted_does_not_start_over(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    checkpoints.store.remove(step_name(1))

    with pytest.raises(NoCheckpointError):
        load_newest(checkpoints)


def test_flipped_digit_in_a_manifest_is_noticed(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    save(checkpoints, 2)
    name = f"{step_name(2)}/manifest.json"
    data = checkpoints.store.read(name).replace(b'"x": 1', b'"x": 2')
    checkpoints.store.remove(name)
    checkpoints.store.replace(name, data)

    loaded = load_newest(checkpoints)

    assert loaded is not None and loaded.step == 1


def test_save_killed_before_its_manifest_was_never_there(checkpoints: Checkpoints) -> None:
    checkpoints.store.replace(f"{step_name(1)}/model.safetensors", b"half")

    assert load_newest(checkpoints) is None


def test_run_whose_only_manifest_is_cut_off_does_not_start_over(checkpoints: Checkpoints) -> None:
    """Manifests appear whole: half of one was a whole one, and the run has saved."""
    checkpoints.store.replace(f"{step_name(1)}/manifest.json", b'{"format": 1, "glo')

    with pytest.raises(NoCheckpointError):
        load_newest(checkpoints)


def test_older_attempt_cannot_commit_any_more(checkpoints: Checkpoints) -> None:
    newer = Checkpoints(checkpoints.store)
    assert newer.claim_attempt() == checkpoints.attempt + 1

    with pytest.raises(FencedError, match="belongs to attempt 1 now; this is attempt 0"):
        save(checkpoints, 5)

    assert committed_steps(checkpoints.store) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"file": "../../secret", "bytes": 1, "xxh3": ""},
        {"file": "/etc/passwd", "bytes": 1, "xxh3": ""},
        {"file": "model.safetensors", "bytes": "1", "xxh3": ""},
        {"bytes": 1},
    ],
)
def test_manifest_that_leaves_its_folder_is_refused(
    checkpoints: Checkpoints, entry: dict[str, object]
) -> None:
    save(checkpoints, 1)
    name = f"{step_name(1)}/manifest.json"
    manifest = load_sealed(checkpoints.store, name)
    manifest["files"].append(entry)
    checkpoints.store.remove(name)
    checkpoints.store.replace(name, seal(manifest))

    with pytest.raises(CorruptFileError, match="no manifest"):
        read_manifest(checkpoints.store, 1)


def test_transformers_loads_a_step_folder(tmp_path: Path) -> None:
    model = GPT2(PRESETS["tiny"])
    model.initialize(1)
    checkpoints = Checkpoints(Store(tmp_path))
    checkpoints.claim_attempt()
    config = hugging_face_config(model.config)
    checkpoints.write(checkpoints.take(3, model.state_dict(), config, {}, rng_state(), {}), Keep())

    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / step_name(3))

    assert torch.equal(theirs.transformer.wte.weight, model.head_weight)
    assert torch.equal(theirs.lm_head.weight, model.head_weight)


def test_official_library_reads_every_type_we_write(tmp_path: Path) -> None:
    types = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    expected = {str(dtype): torch.ones((3, 1), dtype=dtype) for dtype in types}
    checkpoints = Checkpoints(Store(tmp_path))
    checkpoints.claim_attempt()

    checkpoints.write(checkpoints.take(1, expected, {}, {}, rng_state(), {}), Keep())

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
