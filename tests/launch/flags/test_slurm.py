"""Slurm's own ways to write a time and a size."""

from __future__ import annotations

import pytest

from launch.flags.finetune import Finetune
from launch.flags.parse import parse_flags
from launch.flags.slurm import gigabytes_in, minutes_in
from launch.training.settings import asked_of


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("0", 0), ("90", 90),
        ("30:00", 30), ("0:01", 1), ("1:30", 2),
        ("2:00:00", 120), ("02:30:00", 150), ("0:00:61", 2), ("100:00:00", 6000),
        ("1-0", 1440), ("1-12", 2160), ("1-12:30", 2190), ("1-00:00:01", 1441),
        ("7-00:00:00", 10080),
    ],
)  # fmt: skip
def test_times_are_read_as_sbatch_reads_them(text: str, minutes: int) -> None:
    assert minutes_in(text) == minutes


@pytest.mark.parametrize(
    "text", ["", "-5", "1.5", "2h", "1:2:3:4", "1-", "-1:00", "1-2:3:4:5", "1:"]
)
def test_time_that_sbatch_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        minutes_in(text)


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [("16", 16.0), ("0.5", 0.5), ("2G", 2.0), ("500M", 500 / 1024), ("1T", 1024.0), ("2g", 2.0),
     ("1048576K", 1.0)],
)  # fmt: skip
def test_sizes_are_in_gb_or_in_the_unit_that_is_typed(text: str, gigabytes: float) -> None:
    assert gigabytes_in(text) == gigabytes


@pytest.mark.parametrize("text", ["", "G", "2X", "2GB", "two"])
def test_size_that_sbatch_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="could not convert string to float"):
        gigabytes_in(text)


def test_megabytes_reach_slurm_exactly() -> None:
    assert [int(gigabytes_in(f"{size}M") * 1024) for size in range(1, 5000)] == [*range(1, 5000)]


def test_run_remembers_minutes_and_gigabytes_as_numbers() -> None:
    flags = parse_flags(Finetune, ["--time=1-12:00:00", "--mem=2G"])

    slurm = asked_of(flags)["slurm"]

    assert (slurm["time"], slurm["mem"]) == (2160, 2.0)
    assert type(slurm["time"]) is int
    assert type(slurm["mem"]) is float
