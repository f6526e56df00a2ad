"""
Two attempts save one step, and not the same bits: the newer one's step is the one that counts.

The older one has lost its node, or its disk, somewhere in its save, and goes on when the newer one is
anywhere in its own. Nothing that it still does may count as the newer one's save, or remove it.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from instruct_core.checkpoints import loader, steps, writer
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.steps import committed_steps, folder_of
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.errors import FencedError
from instruct_core.storage.store import Store
from tests.instruct_core.checkpoints.test_crash import Overtaken, begin, save


def test_attempts_that_begin_at_the_same_time_have_numbers_of_their_own(tmp_path: Path) -> None:
    for at in range(1, 1000):
        one, other = (Checkpoints(Store(tmp_path / f"run-{at}")) for _ in range(2))

        def claim_elsewhere(other: Checkpoints = other) -> None:
            elsewhere = threading.Thread(target=other.claim_attempt)
            elsewhere.start()
            elsewhere.join()

        with Overtaken(at, claim_elsewhere) as overtaken:
            one.claim_attempt()

        if overtaken.count < at:
            assert at > 5, "a claim has more operations than that"
            return
        assert {one.attempt, other.attempt} == {0, 1}
    pytest.fail("a claim without end")


@pytest.mark.parametrize("has_leftover", [False, True])
def test_newer_attempt_that_saves_other_bits_keeps_what_it_has_saved(
    tmp_path: Path, has_leftover: bool
) -> None:
    """Whatever an overtaken attempt still does, wherever it was: the step that counts is the newer's."""
    for at in range(1, 1000):
        url = begin_with(tmp_path / f"run-{at}", has_leftover)
        older, newer = begin(url), Checkpoints(Store(url))

        def overtake(newer: Checkpoints = newer) -> None:
            newer.claim_attempt()
            save(newer, 1, 7.0)

        with Overtaken(at, overtake) as overtaken, contextlib.suppress(OSError, FencedError):
            save(older, 1)

        if overtaken.count < at:
            return
        check_is_newer(url)
    pytest.fail("a save without end")


@pytest.mark.parametrize("has_leftover", [False, True])
def test_older_attempt_that_ends_its_save_in_the_middle_of_a_newer_ones_changes_nothing(
    tmp_path: Path, has_leftover: bool
) -> None:
    """The older one has looked for newer ones for the last time, and its disk comes back only now."""
    for at in range(1, 1000):
        url = begin_with(tmp_path / f"run-{at}", has_leftover)
        older, newer = begin(url), begin(url)

        def end_late(older: Checkpoints = older) -> None:
            with pytest.MonkeyPatch.context() as late:
                late.setattr(writer, "check_fence", lambda store, attempt: None)
                with contextlib.suppress(OSError, FencedError):
                    save(older, 1)

        with Overtaken(at, end_late) as overtaken:
            try:
                save(newer, 1, 7.0)
            except OSError:  # told of, and tried again as Saves does
                save(newer, 1, 7.0)

        if overtaken.count < at:
            return
        check_is_newer(url)
    pytest.fail("a save without end")


@pytest.mark.parametrize("place", ["file://", "memory://"])
def test_manifest_of_an_overtaken_attempt_on_a_newer_ones_files_is_no_save(
    tmp_path: Path, place: str
) -> None:
    url = f"{place}{tmp_path}/run"
    older, newer = begin(url), Checkpoints(Store(url))
    real = writer.check_fence
    looks = []

    def look_then_stall(store: Store, attempt: int) -> None:
        real(store, attempt)
        if attempt == 0:
            looks.append(attempt)
            if len(looks) == 2:  # the last look before the manifest
                newer.claim_attempt()
                with pytest.MonkeyPatch.context() as late:
                    late.setattr(newer, "_commit", stop_before_manifest)
                    with pytest.raises(OSError, match="not yet"):
                        save(newer, 1, 7.0)

    def stop_before_manifest(*_arguments: object) -> None:
        newer._clean_up = lambda *_arguments: None  # type: ignore[method-assign]
        raise OSError("not yet")

    with pytest.MonkeyPatch.context() as stalled:
        stalled.setattr(writer, "check_fence", look_then_stall)
        with contextlib.suppress(OSError, FencedError):
            save(older, 1)
    assert committed_steps(Store(url)) == [1], "the older one's manifest has landed"

    save(newer, 1, 7.0)

    check_is_newer(url)


@pytest.mark.parametrize("place", ["file://", "memory://"])
def test_attempt_that_finds_damage_and_is_overtaken_leaves_what_a_newer_one_has_saved(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{place}{tmp_path}/run"
    older, newer = begin(url), Checkpoints(Store(url))
    save(older, 1)
    save(older, 2)
    Store(url).replace(f"{folder_of(Store(url), 2)}/model.safetensors", b"damaged")
    real = loader.mark_committed

    def stall(store: Store, step: int) -> None:
        """The older one has found the damage, and its disk comes back when a newer one has saved."""
        monkeypatch.setattr(loader, "mark_committed", real)
        newer.claim_attempt()
        assert load_newest(newer) is not None
        save(newer, 2, 7.0)

    monkeypatch.setattr(loader, "mark_committed", stall)
    monkeypatch.setattr(steps, "LOOK_AGAIN_SECONDS", 0.0)
    with pytest.raises(FencedError, match="belongs to attempt 1 now"):
        load_newest(older)

    check_is_newer(url)


def begin_with(place: Path, has_leftover: bool) -> str:
    """Return the place of a run; perhaps with what a save of its first step has left."""
    if has_leftover:
        (place / "step-00000001").mkdir(parents=True)
        (place / "step-00000001/model.safetensors").write_bytes(b"half")
    return str(place)


def check_is_newer(url: str) -> None:
    damaged: list[str] = []
    loaded = load_newest(begin(url), on_damaged=damaged.append)

    assert not damaged
    assert loaded is not None
    assert loaded.manifest.attempt == 1
    assert loaded.model["a"][0] == loaded.optimizer["a"][0] == 7.0
