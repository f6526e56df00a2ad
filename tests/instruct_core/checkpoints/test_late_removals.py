"""
A removal that is held up on its way to an object store, and arrives anywhere in a newer attempt's save.

No removal has a condition there, so it may meet nothing that a newer attempt has written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.steps import committed_steps, damage_of, steps_of
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.errors import FencedError
from instruct_core.storage import objects
from instruct_core.storage.objects import Objects
from instruct_core.storage.store import Store
from tests.fakes import facts_of
from tests.instruct_core.checkpoints.test_crash import KEEP, begin, save, tensors

Act = Callable[[], object]


@contextlib.contextmanager
def just_before(at: int, other: Act) -> Iterator[list[str]]:
    """Have something else happen just before the request `at`, from 1; yields what was asked for."""
    asked: list[str] = []
    real = objects.plain_errors

    def request(where: str) -> contextlib.AbstractContextManager[None]:
        asked.append(where)
        if len(asked) == at:
            other()
        return real(where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "plain_errors", request)
        yield asked


@contextlib.contextmanager
def at_the_first_removal(other: Callable[[Act], object]) -> Iterator[None]:
    """Hold the first removal up, and have something else happen, which lets it arrive."""
    real, held = Objects.remove, []

    def remove(files: Objects, name: str) -> None:
        if held:
            return real(files, name)
        held.append(name)
        return other(lambda: real(files, name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objects, "remove", remove)
        yield
    assert held, "nothing was removed at all"


def leave_half(url: str) -> None:
    """Leave of step 3 what a save leaves that is killed before its manifest."""
    killed = begin(url)
    load_newest(killed)
    killed._clean_up = lambda *_: None  # type: ignore[method-assign]
    killed._commit = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match="killed"):
        save(killed, 3)


def fail(*_arguments: object) -> None:
    raise OSError("killed")


def after_another(older: Checkpoints) -> None:
    """Find what another save has left, and save."""
    save(older, 3)


def after_a_failure(older: Checkpoints) -> None:
    older._commit = fail  # type: ignore[method-assign]
    save(older, 3)


@pytest.mark.parametrize("act", [after_another, after_a_failure])
def test_removal_that_arrives_late_meets_nothing_of_a_newer_attempt(
    act: Callable[[Checkpoints], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://late-{act.__name__}"
    for step in (1, 2):
        save(begin(url), step)
    leave_half(url)
    template = {name: file for name, file in MemoryFileSystem.store.items() if "/late-" in name}
    asked: list[str] = []
    for at in range(1, 1000):
        monkeypatch.setattr(MemoryFileSystem, "store", template.copy())
        older = begin(url)
        load_newest(older)

        def overtake(arrive: Act, at: int = at) -> None:
            with just_before(at, arrive) as requests:
                newer = begin(url)
                loaded = load_newest(newer)
                assert loaded is not None
                save(newer, loaded.step + 1, 7.0)
            asked[:] = requests

        with at_the_first_removal(overtake), contextlib.suppress(OSError, FencedError):
            act(older)

        check_is_newer(url)
        if len(asked) < at:
            assert at > 20, "a start and a save have more requests than that"
            return
    pytest.fail("a save without end")


def check_is_newer(url: str) -> None:
    """Every step that is there is whole, and the newest has the newer attempt's bits."""
    store = Store(url)
    assert all(steps_of(store).values()), "what was left of saves is removed"
    assert [damage_of(store, step) for step in committed_steps(store)] == ["", ""]
    loaded = load_newest(begin(url))
    assert loaded is not None
    assert loaded.model["a"][0] == loaded.optimizer["a"][0] == 7.0


def test_overtaken_attempt_removes_only_what_no_newer_one_can_have_written() -> None:
    """It prunes after its last look at who is the newest, and finds a newer one's save in the making."""
    url = "memory://late-prune"
    older = begin(url)
    for step in (1, 2, 3):
        save(older, step)
    newer = begin(url)
    newer._commit = fail  # type: ignore[method-assign]
    newer._clean_up = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(OSError, match="killed"):
        save(newer, 1)  # had it found 2 and 3 damaged, it would make this one anew

    older.retention.prune(KEEP, newest=3)

    assert [name for name in Store(url).tree() if name.startswith("step-00000001/attempt-0001")]


def test_older_save_of_a_step_serves_where_the_newer_one_is_damaged() -> None:
    url = "memory://older-save"
    older, newer = begin(url), begin(url)
    older._prune = newer._prune = lambda *_: None  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as overtaken:
        overtaken.setattr("instruct_core.checkpoints.writer.check_fence", lambda *_: None)
        save(older, 1)
    save(newer, 1, 7.0)
    Store(url).replace("step-00000001/attempt-0001-save-0001/model.safetensors", b"damaged")
    damaged: list[str] = []

    with pytest.MonkeyPatch.context() as quick:
        quick.setattr("instruct_core.checkpoints.steps.LOOK_AGAIN_SECONDS", 0.0)
        loaded = load_newest(begin(url), on_damaged=damaged.append)

    assert len(damaged) == 1
    assert loaded is not None
    assert loaded.manifest.attempt == 0
    assert loaded.model["a"][0] == 1.0


def test_checkpoints_of_older_versions_are_read_and_go_on() -> None:
    """They lie in the step's folder itself, in a bucket as on a disk."""
    url = "memory://older-version"
    with pytest.MonkeyPatch.context() as older_version:
        older_version.setattr(
            "instruct_core.checkpoints.writer.new_folder",
            lambda _store, step, *_: f"step-{step:08d}",
        )
        older = begin(url)
        for step in (1, 2):
            save(older, step)
    Store(url).put("step-00000003/model.safetensors", [memoryview(b"left by a kill")])

    newer = begin(url)
    loaded = load_newest(newer)
    for step in (3, 4):
        save(newer, step)

    assert loaded is not None
    assert loaded.step == 2
    assert committed_steps(Store(url)) == [3, 4]
    tree = [name for name in Store(url).tree() if name.startswith("step-")]
    assert all("/attempt-0001-save-" in name for name in tree), "nothing of what was left stays"


def test_run_that_was_copied_from_a_bucket_to_a_disk_goes_on(tmp_path: object) -> None:
    url = "memory://copied"
    checkpoints = begin(url)
    for step in (1, 2):
        save(checkpoints, step)
    copy = Store(f"{tmp_path}/copy")
    for name in Store(url).tree():
        copy.put(name, [memoryview(Store(url).read(name))])

    after = begin(copy.url)
    loaded = load_newest(after)
    for step in (3, 4, 5):
        save(after, step)

    assert loaded is not None
    assert loaded.step == 2
    assert (loaded.model["a"] == tensors(2)["a"]).all()
    assert committed_steps(copy) == [4, 5]
    assert facts_of(5)["progress"] == load_newest(begin(copy.url)).manifest.progress  # type: ignore[union-attr]
