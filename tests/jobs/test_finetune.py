"""What the rank of a run that has saved does about its requeue."""

from __future__ import annotations

import pytest

from jobs import finetune
from jobs.job_folder import ASKS_BACK
from jobs.survival.stop_signal import StopSignal


@pytest.mark.parametrize(("code", "num_asked"), [(255, 1), (ASKS_BACK, 0)])
def test_nodes_of_a_job_are_excluded_by_the_rank_only_if_it_has_requeued_it(
    code: int, num_asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm changes the nodes of a job that waits; one that does not yet is the batch script's to ask."""
    asked: list[None] = []
    monkeypatch.setattr(finetune, "exclude_anew", lambda: asked.append(None))
    monkeypatch.setattr(StopSignal, "hand_over", lambda _: (_ for _ in ()).throw(SystemExit(code)))
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    with pytest.raises(SystemExit):
        finetune._hand_over(StopSignal())

    assert len(asked) == num_asked
