"""What people ask of a run: what holds, what is taken once, and by whom."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from instruct_core.checkpoints.manifest import (
    FileEntry,
    Manifest,
    Progress,
    model_files,
    state_name,
)
from instruct_core.checkpoints.steps import step_name
from instruct_core.config import PRESETS
from instruct_core.storage.documents import seal
from instruct_core.storage.store import Store
from jobs.control import Control, Request, Verb, ask, asker, last_step, requests_in, standing


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "r")


def begin(store: Store, attempt: int = 0, max_steps: int = 10) -> Control:
    """Return what an attempt looks with, which looks only when a test says so."""
    store.replace(f"attempts/{attempt:04d}.json", b"{}")
    return Control(store, attempt, max_steps)


def save(store: Store, step: int) -> None:
    folder = store / step_name(step)
    names = (*model_files(is_adapter=False), state_name(0, 1))
    files = [FileEntry(name, 10**9, "0" * 32) for name in names]
    manifest = Manifest(
        global_step=step, attempt=0, world_size=1, saved_at=time.time(), model=PRESETS["tiny"],
        progress=Progress(step, step, step), files=files,
    )  # fmt: skip
    folder.replace("manifest.json", seal(manifest.document))


def asked(store: Store, *verbs: Verb) -> list[Request]:
    return [ask(store, verb, "anna@login1") for verb in verbs]


@pytest.mark.parametrize(
    ("verbs", "holds"),
    [
        ([], None),
        (["save"], None),
        (["pause"], "pause"),
        (["pause", "resume"], None),
        (["pause", "stop", "pause"], "stop"),
        (["stop", "resume", "pause"], "pause"),
        (["stop", "save"], "stop"),
    ],
)
def test_last_word_on_going_on_holds(store: Store, verbs: list[Verb], holds: str | None) -> None:
    asked(store, *verbs)

    found = standing(requests_in(store))

    assert (found.verb if found else None) == holds


def test_requests_that_come_at_once_are_all_kept(store: Store) -> None:
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)

    def one() -> None:
        barrier.wait()
        for _ in range(3):
            ask(store, "save", "anna@login1")

    people = [fork.Process(target=one) for _ in range(4)]
    for person in people:
        person.start()
    for person in people:
        person.join()

    assert [request.number for request in requests_in(store)] == list(range(1, 13))


@pytest.mark.parametrize(
    "name",
    ["control-1-save.json", "control-000001-extend.json", "control-000001-save-3.json",
     "control-000001-fly.json", "control-000001-save.json.tmp", "run.json"],
)  # fmt: skip
def test_file_of_another_name_asks_nothing(store: Store, name: str) -> None:
    store.replace(name, b"x")

    assert requests_in(store) == []


def test_save_is_asked_until_it_is_taken_and_told_once(store: Store) -> None:
    control = begin(store)
    asked(store, "save", "save")
    assert not control.wishes().save

    control._look()
    assert control.wishes().save
    events = control.take("save", 7)
    control._look()

    assert [str(event) for event in events] == ["Step 7: save, asked for by anna@login1"] * 2
    assert not control.wishes().save
    assert control.take("save", 8) == []


def test_save_that_an_attempt_took_is_not_taken_by_the_next(store: Store) -> None:
    first = begin(store)
    asked(store, "save")
    first._look()
    first.take("save", 3)
    save(store, 3)

    second = begin(store, attempt=1)
    second._look()

    assert not second.wishes().save


@pytest.mark.parametrize("has_saved", [True, False])
def test_save_asked_for_before_an_attempt_looks_is_taken_by_it(
    has_saved: bool, store: Store
) -> None:
    if has_saved:
        asked(store, "save")
        save(store, 3)
    asked(store, "save", "save")

    control = begin(store)
    wanted = control.wishes().save
    events = control.take("save", 7)

    assert wanted
    assert len(events) == 2
    assert not control.wishes().save


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
def test_clock_of_who_asks_for_a_save_decides_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    wrong = time.time() + ahead
    save(store, 3)
    with monkeypatch.context() as now:
        now.setattr("jobs.control.time", SimpleNamespace(time=lambda: wrong))
        asked(store, "save")

    assert begin(store).wishes().save
    save(store, 4)
    assert not begin(store, attempt=1).wishes().save


@pytest.mark.parametrize("content", [b'{"format": 1, "by": "anna@login1"}', b"not ours to read"])
def test_save_of_which_nobody_can_tell_when_it_was_asked_for_is_made(
    store: Store, content: bytes
) -> None:
    save(store, 3)
    store.replace("control-000001-save.json", content)

    assert begin(store).wishes().save


def test_overtaken_attempt_takes_no_requests(store: Store) -> None:
    old = begin(store)
    new = begin(store, attempt=1)
    asked(store, "save", "stop")

    old._look()
    new._look()

    assert (old.wishes().save, old.ending) == (False, None)
    assert new.wishes().save
    assert new.ending is not None


def test_pause_holds_at_every_start_until_the_run_is_to_go_on(store: Store) -> None:
    asked(store, "pause")

    assert [begin(store, attempt).ending is not None for attempt in (0, 1)] == [True, True]
    asked(store, "resume")
    assert begin(store, 2).ending is None


def test_end_only_moves_later(store: Store) -> None:
    control = begin(store, max_steps=10)
    for steps in (40, 30):
        ask(store, "extend", "anna@login1", steps)

    control._look()

    assert control.wishes().max_steps == 40
    assert last_step(requests_in(store), 10) == 40
    assert begin(store, attempt=1, max_steps=10).max_steps == 40


@pytest.mark.parametrize("content", [b"", b"[]", b'{"by": "\x1b[31m\\u001b[0m\\n"}', b"\xff"])
def test_request_that_says_nothing_readable_is_obeyed_and_its_asker_shown_plainly(
    store: Store, content: bytes
) -> None:
    control = begin(store)
    store.replace("control-000001-pause.json", content or b" ")

    control._look()

    assert control.ending is not None
    assert asker(store, control.ending).isprintable()


def test_disk_that_fails_while_it_is_looked_at_is_looked_at_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = begin(store)
    monkeypatch.setattr("jobs.control.LOOK_SECONDS", 0.01)
    answers = iter([OSError("stale"), OSError("stale")])
    seen = threading.Event()

    def names(_: str = "") -> list[str]:
        if (error := next(answers, None)) is not None:
            raise error
        seen.set()
        return []

    monkeypatch.setattr(store, "names", names)
    with control:
        assert seen.wait(60)
