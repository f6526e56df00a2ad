"""A save killed, refused or lied to at any request to an S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.steps import folder_of, read_manifest, step_name
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage.store import Store
from tests.faults import Faults, busy, run_in_child, timeout
from tests.instruct_core.checkpoints.test_crash import (
    begin,
    check_newest,
    check_next_save,
    make_two,
    save,
)
from tests.s3_server import S3Server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_url(s3: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    s3.use(monkeypatch)
    return f"{s3.url}/{request.node.name}".replace("[", "-").replace("]", "")


def test_save_killed_at_any_change_on_s3_loses_nothing(s3_url: str) -> None:
    """One run after the other: a kill after a change is one before the next."""
    make_two(s3_url)
    step = 2
    for at in range(1, 1000):

        def attempt(at: int = at, step: int = step) -> None:
            killed = begin(s3_url)
            load_newest(killed)
            with Faults(at, kill="before"):
                save(killed, step + 1)

        ended = run_in_child(attempt)

        checkpoints = check_newest(s3_url, at_least=step + ended)
        check_next_save(checkpoints, s3_url, step + 2)
        step += 2
        if ended:
            assert at > 5, "a save has more changes than that"
            return
    pytest.fail("a save without end")


def test_save_refused_at_any_request_to_s3_loses_nothing(s3_url: str) -> None:
    make_two(s3_url)
    step = 2
    for at in range(1, 1000):
        checkpoints = begin(s3_url)
        load_newest(checkpoints)

        with Faults(at, error=busy if at % 2 else timeout) as faults:
            try:
                save(checkpoints, step + 1)
            except OSError:
                assert faults.count >= at

        save(checkpoints, step + 1)  # the same process goes on; and so would another one
        checkpoints = check_newest(s3_url, at_least=step + 1)
        check_next_save(checkpoints, s3_url, step + 2)  # or the next has more to ask than this one
        step += 2
        if faults.count < at:
            assert at > 20, "a save has more requests than that"
            return
    pytest.fail("a save without end")


def test_s3_that_is_busy_twice_is_asked_again(s3_url: str) -> None:
    make_two(s3_url)
    checkpoints = Checkpoints(Store(s3_url, patience_seconds=20))

    with Faults(1, error=busy, times=2) as faults:
        checkpoints.claim_attempt()
        loaded = load_newest(checkpoints)

    assert loaded is not None
    assert loaded.step == 2
    assert faults.count > 3


def test_stale_listing_of_s3_does_not_hide_the_newest_step(s3_url: str) -> None:
    make_two(s3_url)
    checkpoints = begin(s3_url)
    before = checkpoints.store.names()  # the client remembers this listing

    def save_elsewhere() -> None:
        save(begin(s3_url), 3)

    assert run_in_child(save_elsewhere)
    loaded = load_newest(checkpoints)

    assert loaded is not None
    assert loaded.step == 3
    assert set(checkpoints.store.names()) - set(before) == {step_name(3)}


def test_manifest_whose_data_is_gone_is_set_aside(s3_url: str, tmp_path: Path) -> None:
    for url in (str(tmp_path / "run"), s3_url):
        make_two(url)
        folder = folder_of(Store(url), 2)
        for entry in read_manifest(Store(url), 2).files:
            Store(url).remove(f"{folder}/{entry.file}")

        damaged: list[str] = []
        loaded = load_newest(begin(url), on_damaged=damaged.append)

        assert loaded is not None
        assert loaded.step == 1
        assert "is gone, though the manifest names it" in damaged[0]
