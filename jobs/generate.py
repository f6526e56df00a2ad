"""
One task of a batch inference: every num_tasks-th part of the plan.

    submit_slurm(GenerateJob(out="answers.jsonl", num_tasks=8), ...)     # array tasks 0-7

The plan lies beside the answers, in answers.jsonl.parts/plan.json; the one file of all answers
and its manifest complete them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from instruct_core.answers.parts import join_parts, joined, missing_parts, read_part
from instruct_core.answers.plan import AnswerPlan
from instruct_core.storage.store import Store
from jobs.array_job import ArrayJob
from jobs.environment import ask_for_huge_pages, loading


def place_of(out: str) -> tuple[Store, str]:
    """Return the folder of the answers, and the name of their file in it."""
    folder, _, name = out.rpartition("/")
    return Store(folder or "."), name


@dataclass(frozen=True)
class GenerateJob(ArrayJob[AnswerPlan]):
    """What one task runs; ``out`` is the file of all answers."""

    tasks_here: int = 1  # that share the cores of the machine

    @property
    def store(self) -> Store:
        """The folder of the parts, beside the answers."""
        return Store(f"{self.out}.parts")

    def plan(self) -> AnswerPlan:
        """Return the plan that lies among the parts."""
        return AnswerPlan.load(self.store)

    def missing(self, plan: AnswerPlan) -> list[int]:
        """Return the parts whose document is not there."""
        return missing_parts(self.store, plan)

    def is_made(self, plan: AnswerPlan, part: int) -> bool:
        """Return True if a part and its document verify."""
        return read_part(self.store, plan, part) is not None

    def writer(self, plan: AnswerPlan) -> Callable[[int], None]:
        """Load the model, and return what answers the questions of a part."""
        ask_for_huge_pages()
        with loading():
            from instruct_core.answers.writer import load_planned_model, write_part
            from jobs.gpu_memory import advice_of_a_task, gpu_holds
            from jobs.world import share_cores
        share_cores(self.tasks_here)

        store, kept, most = self.store, plan.settings.weights, plan.settings.batch_size
        with gpu_holds("the model", advice_of_a_task(kept)):
            model = load_planned_model(plan)
        advice = advice_of_a_task(kept, most)

        def write(part: int) -> None:
            with gpu_holds(f"the model and --batch-size {most}", advice):
                write_part(store, plan, part, model)

        return write

    def is_complete(self, plan: AnswerPlan) -> bool:
        """Return True if the file of all answers is of this plan and verifies."""
        folder, name = place_of(self.out)
        return joined(self.store, plan, folder, name) is not None

    def complete(self, plan: AnswerPlan) -> None:
        """Join the parts into one file."""
        folder, name = place_of(self.out)
        join_parts(self.store, plan, folder, name)
