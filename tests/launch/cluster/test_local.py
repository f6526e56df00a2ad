"""Jobs on this machine, from the launcher's side."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jobs.survival.stop_signal import WARNINGS
from launch.cluster.frozen_code import freeze_code
from launch.cluster.local import submit_local


@pytest.mark.parametrize("signum", WARNINGS)
def test_warning_in_the_first_moment_of_a_controller_does_not_end_its_job(
    tmp_path: Path, signum: signal.Signals
) -> None:
    freeze_code(tmp_path)
    job = submit_local(os.getpid, tmp_path, num_tasks=1)

    job.warn(signum)

    assert job.exit_code() == 0
