"""
The curves of a run on a disk that fails for a while: every point once and in order, and no step waits.

What TensorBoard's own reader shows is compared with what was logged.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from instruct_core.storage import growing_file, patience
from instruct_core.storage.growing_file import GrowingFile
from instruct_core.storage.store import Store
from instruct_core.train.metrics import Metrics
from launch.runs.curves import read_curves
from tests.shared_disk.faults import ALL, WRITE, Fault, Kind
from tests.shared_disk.mount import SharedDisk, needs_fuse
from tests.slow_clock import Clock

pytestmark = needs_fuse
LOSS = "train/loss"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    return clock


def log(metrics: Metrics, *steps: int) -> None:
    for step in steps:
        metrics.log(step, {LOSS: float(step)})


def steps_in(folder: Path) -> list[int]:
    """Return the steps that TensorBoard shows, in its order."""
    return [step for step, value in read_curves(Store(folder), [LOSS]).curves.get(LOSS, [])]


@pytest.mark.parametrize("kind", ["EIO", "EDQUOT", "lost"])
def test_each_point_is_there_once_whichever_operation_is_refused(
    disk: SharedDisk, kind: Kind
) -> None:
    for number in itertools.count():
        name = f"{kind}-{number}"
        metrics = Metrics(Store(disk.path / name), 0, 0)
        log(metrics, 1, 2)
        before = disk.counts().get(kind, {}).get("refused", 0)
        operations = WRITE if kind == "EDQUOT" else ALL
        disk.plan([Fault(kind, operations, f"/{name}/*", skips=number, times=2)])
        metrics.file.write(durably=True)
        log(metrics, 3)
        metrics.file.write(durably=True)
        was_refused = disk.counts().get(kind, {}).get("refused", 0) > before
        disk.heal()

        log(metrics, 4)
        metrics.close()

        assert steps_in(disk.folder / name) == [1, 2, 3, 4], number
        if not was_refused:
            assert number > 3, "nothing was refused at all"
            return


def test_resumed_run_forgets_what_is_made_again_though_its_disk_refused_at_first(
    disk: SharedDisk,
) -> None:
    first = Metrics(Store(disk.path / "again"), 0, 0)
    log(first, *range(1, 8))
    first.close()
    disk.plan([Fault("EIO", ALL, "/again/*")])
    second = Metrics(Store(disk.path / "again"), 1, 5)
    log(second, 6)
    second.file.write(durably=True)
    disk.heal()
    log(second, 7, 8)

    second.close()

    assert steps_in(disk.folder / "again") == list(range(1, 9))


def test_no_step_waits_for_a_disk_that_hangs(disk: SharedDisk) -> None:
    disk.plan([Fault("hang", ALL, "/hangs/*")])  # until it is healed

    metrics = Metrics(Store(disk.path / "hangs"), 0, 0)
    log(metrics, *range(1, 2000))

    assert steps_in(disk.folder / "hangs") == []
    disk.heal()
    metrics.close()
    assert steps_in(disk.folder / "hangs") == list(range(1, 2000))


def test_what_waits_for_a_full_disk_has_an_end(
    disk: SharedDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(growing_file, "MOST_BYTES", 100)
    file = GrowingFile(disk.path / "full" / "lines", "lines")
    disk.plan([Fault("EDQUOT", WRITE, "/full/*")])

    for number in range(30):
        file.add(b"line %03d\n" % number)
        file.write()
    disk.heal()
    file.write()
    file.add(b"the next\n")
    file.write()

    lines = (disk.folder / "full" / "lines").read_text().splitlines()
    assert lines == [*(f"line {number:03d}" for number in range(11)), "the next"]
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 2, "once that they wait, and once that more are left out"
