"""Reading what a cluster offers."""

from __future__ import annotations

import pytest

from launch.cluster.partition import gpus_in, minutes_of
from launch.cluster.request import lead_of
from launch.cluster.script import array_text


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("(null)", 0),
        ("gpu:4", 4),
        ("gpu:3090:8", 8),
        ("gpu:2080ti:4", 4),
        ("gpu:1g.5gb:14,gpu:a100:2(S:0)", 16),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:2,gpu:t4:1,mps:200", 3),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0-1),shard:16", 8),
    ],
)
def test_gpus_are_counted(gres: str, expected: int) -> None:
    assert gpus_in(gres) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("UNLIMITED", None), ("30:00", 30), ("02:00:00", 120), ("1-00:00:00", 1440), ("00:00:30", 1)],
)
def test_time_limits_are_read(text: str, expected: int | None) -> None:
    assert minutes_of(text) == expected


def test_array_is_written_as_ranges() -> None:
    assert array_text([0, 1, 2, 7, 9, 10]) == "0-2,7,9-10"
    assert array_text([5]) == "5"


def test_lead_follows_what_was_measured_and_leaves_time_to_train() -> None:
    assert lead_of(1440, None, 0.0) == 120
    assert lead_of(1440, None, 300.2) == 301
    assert lead_of(5, None, 0.0) == 60
    assert lead_of(5, 250, 0.0) == 250
