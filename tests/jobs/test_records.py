"""What a rank tells of its steps is where it belongs before a save of them can count."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.storage import growing_file
from instruct_core.storage.store import Store
from jobs.records import Records
from launch.runs.curves import read_curves
from tests.flushes import Flushes

LOSS = "train/loss"


def test_samples_and_curves_are_flushed_before_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A written file is in a system's cache, and goes with the node; a checkpoint does not."""
    system = Flushes()
    monkeypatch.setattr(growing_file, "os", system)
    records = Records(Store(tmp_path / "r"), 0, 0, dict)
    records.begin(0, with_samples=True)
    records.read(0, [1, 2])
    records.curves.log(1, {LOSS: 2.0})

    records.write_before_a_save()

    flushed = sorted(name.partition(".")[0] for name in system.names)
    assert flushed == ["events", "samples-0000-00000"]
    records.close()


@pytest.mark.parametrize("is_last", [False, True])
def test_curves_of_a_bucket_are_sent_before_a_save_and_at_the_end(
    is_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = Flushes()
    monkeypatch.setattr(growing_file, "os", system)
    runs = Store(f"memory://records-{is_last}/r")
    records = Records(runs, 0, 0, dict)
    for step in (1, 2):
        records.curves.log(step, {LOSS: float(step)})

        if is_last:
            records.write_last(0.0)
        else:
            records.write_before_a_save()

        assert read_curves(runs, [LOSS]).curves[LOSS][-1] == (step, float(step))
    assert not system.names, "what is sent need not be flushed here"
    records.close()


def test_what_a_disk_has_refused_until_then_is_written_when_an_attempt_ends(tmp_path: Path) -> None:
    """Also that of an attempt which fails: nobody writes its last words but `close`."""
    (tmp_path / "r").write_text("in the way")
    records = Records(Store(tmp_path / "r"), 0, 0, dict)
    records.begin(0, with_samples=True)
    records.read(0, [1, 2])
    records.curves.log(1, {LOSS: 2.0})
    (tmp_path / "r").unlink()

    records.close()

    samples = tmp_path / "r" / "samples-0000-00000.jsonl"
    assert samples.read_text() == '{"step": 0, "samples": [1, 2]}\n'
    assert read_curves(Store(tmp_path / "r"), [LOSS]).curves[LOSS] == [(1, 2.0)]
