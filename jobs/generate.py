"""
One task of a batch inference: every num_tasks-th part of the plan.

    submit_slurm(GenerateJob(out="answers.jsonl", num_tasks=8), ...)     # array tasks 0-7

The plan lies beside the answers, in answers.jsonl.parts/plan.json. A part that is there and
verifies is skipped, so a killed task redoes only the part it was at. Whichever task sees that all
are there writes the one file; should two see it, both write the same bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import submitit

from instruct_core.answers.parts import join_parts, missing_parts, read_part
from instruct_core.answers.plan import AnswerPlan
from instruct_core.storage.store import Store
from jobs.job_folder import failure_report, job_folder, peak_bytes, write_progress


def places_of(out: str) -> tuple[Store, str, Store]:
    """Return the folder of the answers, the name of their file, and the store of their parts."""
    folder, _, name = out.rpartition("/")
    return Store(folder or "."), name, Store(f"{out}.parts")


@dataclass(frozen=True)
class GenerateJob:
    """What one task runs."""

    out: str
    num_tasks: int
    first_task: int = 0  # the task that a job of its own does, or that an array begins with
    tasks_here: int = 1  # that share the cores of the machine

    def __call__(self) -> int:
        """Write this task's parts; return how many were missing."""
        task = self.first_task + int(submitit.JobEnvironment().array_task_id or 0)
        with failure_report(job_folder(), task):
            return self._run(task)

    def _run(self, task: int) -> int:
        from instruct_core.answers.writer import load_planned_model, write_part
        from jobs.world import share_cores

        share_cores(self.tasks_here)
        out, name, store = places_of(self.out)
        plan = AnswerPlan.load(store)
        mine = range(task, plan.num_parts, self.num_tasks)
        todo = [part for part in mine if read_part(store, plan, part) is None]
        model = load_planned_model(plan) if todo else None
        for count, part in enumerate(todo):
            _report(len(mine) - len(todo) + count)
            assert model is not None, "it was loaded for what is to do"
            write_part(store, plan, part, model)
        if not missing_parts(store, plan):  # by name: cheap enough for every task to ask
            join_parts(store, plan, out, name)
        _report(len(mine))
        return len(todo)

    def checkpoint(self, *args: Any, **kwargs: Any) -> submitit.helpers.DelayedSubmission:
        """Return what runs after a requeue: the same task, which skips what is there."""
        return submitit.helpers.DelayedSubmission(self, *args, **kwargs)


def _report(num_done: int) -> None:
    write_progress(job_folder(), committed=num_done, peak_bytes=peak_bytes(os.getpid()))
