"""The second and fourth promise on one rank: damage is named, the one before serves, or it stops."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from instruct_core.checkpoints.background import Background
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.retention import Keep, Removed
from instruct_core.checkpoints.steps import (
    committed_steps,
    folder_of,
    newest_committed_step,
    step_name,
)
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.errors import FencedError, NoCheckpointError
from instruct_core.storage.documents import load_sealed, seal
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import HUGE_PAGE_BYTES
from instruct_core.train.rng import rng_state
from tests.conftest import wait_for
from tests.fakes import facts_of


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
    snapshot = checkpoints.take(
        step, tensors(step), {"model_type": "gpt2"}, tensors(step + 1), rng_state(),
        facts_of(step, val_loss) | {"git_commit": "abc"},
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

    assert loaded is not None
    assert loaded.step == 7
    assert loaded.manifest.git_commit == "abc"
    for found, expected in ((loaded.model, tensors(7)), (loaded.optimizer, tensors(8))):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loaded.rng is not None
    assert torch.equal(loaded.rng["torch"], torch.get_rng_state())


def test_checkpoint_is_in_memory_once_while_it_is_loaded(checkpoints: Checkpoints) -> None:
    weights = {"w": torch.ones(1 << 22)}
    snapshot = checkpoints.take(1, weights, {}, weights, {}, facts_of(1))
    checkpoints.write(snapshot, Keep(last=9))
    size = 2 * weights["w"].nbytes
    del snapshot, weights

    tracemalloc.start()
    loaded = load_newest(checkpoints)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert loaded is not None
    in_flight = checkpoints.store._files.read_bytes + 4 * HUGE_PAGE_BYTES
    assert size <= peak < size + in_flight < 2 * size


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
    path = f"{folder_of(checkpoints.store, 2)}/{name}"
    if damage == "gone":
        checkpoints.store.remove(path)
    else:
        change(checkpoints.store, path, flip_a_bit if damage == "flip" else lambda d: d[:-1])

    damaged: list[str] = []
    loaded = load_newest(checkpoints, on_damaged=damaged.append)

    assert loaded is not None
    assert loaded.step == 1
    assert len(damaged) == 1
    assert name in damaged[0]
    assert "damaged-step-00000002-attempt-0000" in checkpoints.store.names()
    save(checkpoints, 2)
    assert committed_steps(checkpoints.store) == [1, 2]
    assert newest_committed_step(checkpoints.store) == 2


def test_run_that_saved_does_not_start_over_when_nothing_loads(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    change(checkpoints.store, f"{folder_of(checkpoints.store, 1)}/model.safetensors", flip_a_bit)

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
    name = f"{folder_of(checkpoints.store, 2)}/manifest.json"
    data = checkpoints.store.read(name).replace(b'"abc"', b'"abd"')
    checkpoints.store.remove(name)
    checkpoints.store.replace(name, data)

    loaded = load_newest(checkpoints)

    assert loaded is not None
    assert loaded.step == 1


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

    said = f"belongs to attempt 1 now; this is attempt 0,.* began on {socket.gethostname()}: "
    with pytest.raises(FencedError, match=said):
        save(checkpoints, 5)

    assert committed_steps(checkpoints.store) == []
    assert newest_committed_step(checkpoints.store) is None


def test_size_that_lies_takes_no_memory(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    save(checkpoints, 2)
    name = f"{folder_of(checkpoints.store, 2)}/manifest.json"
    manifest = load_sealed(checkpoints.store, name)
    manifest["files"][0]["bytes"] = 10**15
    checkpoints.store.replace(name, seal(manifest))

    loaded = load_newest(checkpoints)

    assert loaded is not None
    assert loaded.step == 1


def test_many_saves_and_loads_leave_nothing_behind(tmp_path: Path) -> None:
    """Memory, open files and threads are where they were."""
    process = psutil.Process()
    checkpoints = Checkpoints(Store(tmp_path))
    checkpoints.claim_attempt()
    model = {"w": torch.ones(1_000_000)}  # 4 MB: a leak of one a save would be 240 MB

    def turn(step: int) -> None:
        background: Background[Removed] = Background()
        snapshot = checkpoints.take(step, model, {}, {}, rng_state(), facts_of(step))
        background.start(lambda: checkpoints.write(snapshot, Keep(last=1)))
        background.result()
        if step % 4 == 0:
            assert load_newest(checkpoints) is not None

    for step in range(1, 21):  # the allocator finds its size
        turn(step)
    before = (process.memory_info().rss, process.num_fds(), process.num_threads())
    for step in range(21, 81):
        turn(step)

    assert process.memory_info().rss - before[0] < 64 << 20
    assert process.num_fds() == before[1]
    # A thread that was joined may take a moment to be gone from the system's list.
    wait_for(lambda: process.num_threads() <= before[2], "the end of the threads", 10)
    assert len(list(tmp_path.iterdir())) == 3  # one step, its attempt and the mark
