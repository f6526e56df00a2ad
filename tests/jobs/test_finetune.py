"""What a rank of a run ends with, for who started it to know what comes next."""

from __future__ import annotations

import errno
import subprocess

import pytest

from jobs import finetune
from jobs.job_folder import ASKS_BACK
from jobs.survival.stop_signal import StopSignal


@pytest.mark.parametrize(
    "problem",
    [OSError(errno.ENOSPC, "No space left"), subprocess.CalledProcessError(1, "scontrol requeue")],
)
def test_rank_that_cannot_requeue_its_job_says_so_by_what_it_exits_with(
    problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: StopSignal) -> None:
        raise problem

    monkeypatch.setattr(StopSignal, "hand_over", refuse)

    with pytest.raises(SystemExit) as ended:
        finetune._hand_over(StopSignal())

    assert ended.value.code == ASKS_BACK
