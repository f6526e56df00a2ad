"""
One task of a preprocessing array: every num_tasks-th shard of the plan.

    submit_slurm(PreprocessJob(out="shards/alpaca", num_tasks=16), ...)     # array tasks 0-15

The plan lies in the shard set as plan.json. A shard that is there and verifies is skipped, so a
killed task redoes only the shard it was at. Whichever task sees that all are there writes the
manifest; should two see it, both write the same bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import submitit

from instruct_core.data.fast_tokenizer import TokenizerName, choose_tokenizer
from instruct_core.data.shard_plan import ShardPlan
from instruct_core.data.shards import is_written, missing_shards, write_manifest, write_shard
from instruct_core.storage.store import Store
from jobs.job_folder import failure_report, job_folder, peak_bytes, write_progress


@dataclass(frozen=True)
class PreprocessJob:
    """What one task runs."""

    out: str
    num_tasks: int
    first_task: int = 0  # the task that a job of its own does, or that an array begins with
    tokenizer: TokenizerName = "auto"

    def __call__(self) -> int:
        """Write this task's shards; return how many were missing."""
        task = self.first_task + int(submitit.JobEnvironment().array_task_id or 0)
        with failure_report(job_folder(), task):
            store = Store(self.out)
            plan = ShardPlan.load(store)
            tokenizer = choose_tokenizer(self.tokenizer)
            num_written = 0
            for count, shard in enumerate(range(task, plan.num_parts, self.num_tasks)):
                _report(count)
                if not is_written(store, plan, shard):
                    write_shard(store, plan, shard, tokenizer)
                    num_written += 1
            if not missing_shards(store, plan):  # by name: cheap enough for every task to ask
                write_manifest(store, plan)
            _report(plan.num_parts)
            return num_written

    def checkpoint(self, *args: Any, **kwargs: Any) -> submitit.helpers.DelayedSubmission:
        """Return what runs after a requeue: the same task, which skips what is there."""
        return submitit.helpers.DelayedSubmission(self, *args, **kwargs)


def _report(num_done: int) -> None:
    write_progress(job_folder(), committed=num_done, peak_bytes=peak_bytes(os.getpid()))
