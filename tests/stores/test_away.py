"""
A bucket that is away for minutes in the middle of a save: between two parts of a large file, before what
completes it, between the files and the manifest.

The clocks of saves, of patience and of the clients are played: nobody waits for the minutes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from instruct_core.checkpoints import saves as saving
from instruct_core.checkpoints.loader import load_newest
from instruct_core.checkpoints.saves import Saves
from instruct_core.checkpoints.snapshot import Snapshot
from instruct_core.checkpoints.steps import committed_steps, steps_of
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.config import TrainConfig
from instruct_core.errors import UnsavedError
from instruct_core.events import Event
from instruct_core.storage import objects, patience
from instruct_core.storage.store import Store
from tests.fakes import facts_of
from tests.s3_server import BUCKET, SECRET, S3Server
from tests.slow_clock import Clock
from tests.stores.line import Fault, Line, Request
from tests.stores.servers import Emulated, azure, google

# aiohttp's, to Google's client; here a warning is an error.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

LARGE_BYTES = {"s3": 12 << 20, "gs": 52 << 20, "az": 68 << 20}  # more than one request takes
PART = re.compile(r"[?&](partNumber|upload_id|blockid)")
CONFIG = TrainConfig(
    "r", "s", "c", "t", "random", "tiny", "f", async_save=False, max_unsaved_minutes=30.0
)


@contextlib.contextmanager
def amazon(folder: Path) -> Iterator[Emulated]:
    with S3Server(folder) as server, Line(int(server.env["AWS_ENDPOINT_URL"][-5:])) as line:
        env = server.env | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.port}"}
        yield Emulated(f"s3://{BUCKET}", env, line, SECRET)


@pytest.fixture(scope="module", params=["s3", "gs", "az"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Emulated]:
    made = {"s3": amazon, "gs": google, "az": azure}[request.param]
    with made(tmp_path_factory.mktemp(request.param)) as emulated:
        yield emulated


@pytest.fixture
def clock(server: Emulated, monkeypatch: pytest.MonkeyPatch) -> Clock:
    server.use(monkeypatch)  # before the clients are imported
    clock = Clock()

    async def sleep(*args: Any) -> None:
        clock.sleep(args[-1])

    monkeypatch.setattr(patience, "time", clock)
    monkeypatch.setattr(saving, "monotonic", clock.monotonic)
    monkeypatch.setattr(saving, "sleep", clock.sleep)
    if server.url.startswith("gs"):
        from gcsfs import retry

        monkeypatch.setattr(retry, "asyncio", SimpleNamespace(sleep=sleep))
    if server.url.startswith("az"):
        from azure.core.pipeline.transport import AsyncHttpTransport

        monkeypatch.setattr(AsyncHttpTransport, "sleep", sleep)
    monkeypatch.setattr(objects, "UPLOAD_BYTES", 5 << 20)  # the least that S3 takes
    return clock


class Training:
    """Steps of a second each, of one large tensor that is the number of the step."""

    def __init__(self, url: str, clock: Clock, config: TrainConfig = CONFIG) -> None:
        self._clock = clock
        self.store = Store(url)
        self._checkpoints = Checkpoints(Store(url, patience_seconds=60))
        self._checkpoints.claim_attempt()
        self.weight = torch.zeros(LARGE_BYTES[url.partition(":")[0]] // 4)
        self.step = 0
        self.events: list[Event] = []
        self.saves = Saves(config, self._checkpoints, self._take, self.events.append)

    def _take(self, copied: bool) -> Snapshot:
        facts, weights = facts_of(self.step), {"w": self.weight}
        return self._checkpoints.take(self.step, weights, {}, {}, {}, facts, copied)

    def train(self, seconds: int) -> None:
        """Make steps, and save when the saves ask for it."""
        for _ in range(seconds):
            self._clock.now += 1
            self.step += 1
            if self.saves.votes()[0]:
                self.save()

    def save(self) -> None:
        self.weight.fill_(self.step)
        self.saves.begin(self.step)

    @property
    def told(self) -> list[str]:
        return [event.name for event in self.events]

    def newest(self) -> tuple[int, float, float]:
        damaged: list[str] = []
        loaded = load_newest(Checkpoints(self.store), on_damaged=damaged.append)
        assert loaded is not None
        assert not damaged
        weight = loaded.model["w"]
        return loaded.step, float(weight.min()), float(weight.max())


class Outage:
    """Answers nobody for so long from a request on; then all is well."""

    def __init__(
        self, line: Line, clock: Clock, seconds: float, begins: Callable[[Request], bool]
    ) -> None:
        self._clock, self._seconds, self._begins = clock, seconds, begins
        self.refused = 0
        self._at: float | None = None
        line.plan(self._plan)

    def _plan(self, request: Request) -> Fault | None:
        if self._at is None and self._begins(request):
            self._at = self._clock.now
        if self._at is None or self._clock.now >= self._at + self._seconds:
            return None
        self.refused += 1
        return Fault.CUT_BEFORE


def from_request(number: int) -> Callable[[Request], bool]:
    return lambda request: request.number >= number


def is_part(request: Request) -> bool:
    return request.num_bytes > 1 << 20 and bool(PART.search(request.path))


def moments(server: Emulated, training: Training) -> dict[str, int]:
    """Return the numbers of a save's requests at which its bucket goes away."""
    seen: list[Request] = []
    server.line.plan(seen.append)
    training.train(1)
    training.save()
    server.line.clear()
    parts = [request.number for request in seen if is_part(request)]
    assert len(parts) >= 2, "the file is not large enough for parts"
    writes = [r.number for r in seen if r.method in ("PUT", "POST") and r.number > parts[-1]]
    found = {
        "between parts": parts[1],
        "before the completion": parts[-1] + 1,
        "before the manifest": writes[-2],
        "after the manifest": writes[-1],
    }
    if server.url.startswith("s3"):  # the others take larger files, and longer
        return found
    return {moment: found[moment] for moment in ("between parts", "before the manifest")}


def test_bucket_away_for_minutes_amid_a_save_costs_nothing_but_that_save(
    server: Emulated, clock: Clock
) -> None:
    training = Training(f"{server.url}/away", clock)
    good: list[int] = []
    for moment, number in moments(server, training).items():
        before = training.saves.saved_step
        good.append(before)
        outage = Outage(server.line, clock, 600, from_request(number))
        training.events.clear()

        training.train(1)
        training.save()
        tried = training.step
        training.train(700)

        server.line.clear()
        assert outage.refused > 0
        failed = training.told.count("save_failed")
        # The parts that Azure's client sends side by side wait for one played clock in turn.
        least_failed = 1 if server.url.startswith("az") else 4
        tries = range(least_failed, 10) if moment != "after the manifest" else range(1)
        assert failed in tries, moment
        assert training.told[-1] == "saved", moment
        assert training.step == tried + 700
        step, least, most = training.newest()
        assert step == training.saves.saved_step >= tried
        assert least == most == step
        assert {before, step} <= set(committed_steps(training.store)) <= {*good, step}
        good.append(step)
        assert all(steps_of(training.store).values()), "nothing half-saved is left"


def test_bucket_that_stays_away_ends_a_run_as_said_and_the_step_before_is_there(
    server: Emulated, clock: Clock
) -> None:
    training = Training(f"{server.url}/gone", clock, replace(CONFIG, max_unsaved_minutes=5.0))
    training.train(1)
    training.save()
    good, began_at = training.step, clock.now
    outage = Outage(server.line, clock, 1e9, is_part)

    training.train(1)
    training.save()
    with pytest.raises(UnsavedError, match=r"--max-unsaved-minutes 5"):
        training.train(3600)

    server.line.clear()
    assert outage.refused > 5
    assert 300 < clock.now - began_at < 900
    assert training.newest() == (good, float(good), float(good))
