"""What the rank of a run that has saved does about its requeue."""

from __future__ import annotations

from typing import Any

import pytest

from instruct_core.config import TrainConfig
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


@pytest.mark.parametrize(
    ("settings", "num_ranks", "is_loaded"),
    [
        ({}, 2, False),
        ({"compile": True}, 1, True),
        ({"activation_checkpointing": "on"}, 1, True),
        ({"shard": "full"}, 2, True),
        ({"shard": "full"}, 1, False),
    ],
)
def test_compiler_is_loaded_once_for_all_ranks_that_need_it(
    settings: dict[str, Any], num_ranks: int, is_loaded: bool
) -> None:
    """Each of them would take a second for it, at every start."""
    config = TrainConfig("r", "", "", "", "random", "tiny", "", max_steps=1, **settings)

    imports = finetune.FinetuneJob(config, "v").imports(num_ranks)

    assert imports == ["jobs.attempt", *(["torch._dynamo"] if is_loaded else [])]
