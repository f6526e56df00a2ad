"""Which faults hit a drill, and after which step."""

from __future__ import annotations

import subprocess
import sys

import pytest

from instruct_core.errors import ConfigError
from jobs.drill import Fault
from launch.drills.schedule import drawn, save_every, schedule_of
from tests.conftest import REPO


def test_faults_come_in_the_order_of_their_steps_and_kills_take_turns() -> None:
    faults = schedule_of("kill@9, usr2@3,kill@20", num_steps=30, world_size=2, on_slurm=False)

    assert [str(fault) for fault in faults] == ["usr2@3", "kill@9", "kill@20"]
    assert {fault.rank for fault in faults if fault.kind == "kill"} == {0}
    assert schedule_of("usr2@3,kill@9", 30, 2, on_slurm=False)[1].rank == 1


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("", "KIND@STEP"),
        ("usr2", "KIND@STEP"),
        ("usr2@5;kill@7", "KIND@STEP"),
        ("usr9@5", "KIND@STEP"),
        ("usr2@-1", "KIND@STEP"),
        ("usr2@0", "after step 1 to 29"),
        ("usr2@30", "after step 1 to 29"),
        ("requeue@5", "needs Slurm"),
        ("kill@5,kill@5,kill@5", "3 kills"),
        ("kill@5,save@6,save@6", "at most 2 kill@5 and save@6"),
    ],
)
def test_schedule_that_makes_no_sense_is_refused(typed: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        schedule_of(typed, num_steps=30, world_size=2, on_slurm=False)


def test_requeue_can_be_had_on_slurm() -> None:
    assert schedule_of("requeue@5", 30, 2, on_slurm=True) == [Fault("requeue", 5)]


def test_drawn_faults_are_those_of_their_seed_each_at_a_step_of_its_own() -> None:
    faults = drawn(10, seed=7, num_steps=30, world_size=4, on_slurm=False)

    assert faults == drawn(10, seed=7, num_steps=30, world_size=4, on_slurm=False)
    assert faults != drawn(10, seed=8, num_steps=30, world_size=4, on_slurm=False)
    assert len({fault.step for fault in faults}) == 10
    assert all(0 < fault.step < 30 and 0 <= fault.rank < 4 for fault in faults)
    assert "requeue" not in {fault.kind for fault in faults}


def test_more_faults_than_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="less than --steps 5"):
        drawn(5, seed=0, num_steps=5, world_size=1, on_slurm=False)


@pytest.mark.parametrize(
    ("typed", "every"),
    [
        ("usr2@6", 5), ("kill@7,kill@8", 5),
        ("save@7,save@8,save@9", 4), ("save@5,save@6,save@7", 5),
        # The save of step 15 may not be done when the second and the third kill come.
        ("save@14,kill@15,kill@16", 2),
        ("kill@6,kill@7,kill@8", 1), ("kill@4,kill@5,kill@6", 1),
    ],
)  # fmt: skip
def test_run_saves_so_often_that_its_own_kills_cannot_end_it(typed: str, every: int) -> None:
    faults = schedule_of(typed, num_steps=30, world_size=1, on_slurm=False)

    assert save_every(faults) == every


def test_drill_is_begun_without_torch() -> None:
    script = "import sys, launch.drills.drill; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], cwd=REPO, check=False).returncode == 0
