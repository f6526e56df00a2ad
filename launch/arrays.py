"""
Preprocessing as array jobs: queued in one go, followed, and finished by whoever looks again.

    array = ShardArray(store)
    array.submit(flags, request, plan, tasks)

An array larger than the cluster allows (MaxArraySize) becomes several. Only tasks with work are
queued; one that fails or is preempted comes back alone. The job's note lies in the shard set, so
that a fine-tuning job can wait for shards that are still being made.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from instruct_core.data.plan import Plan
from instruct_core.data.shards import load_manifest, missing_shards
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from jobs.preprocess import PreprocessJob
from jobs.reports import read_outcome
from launch.bars import progress_bar
from launch.cluster import (
    Resources,
    array_text,
    batch_script,
    freeze_code,
    submit_slurm,
    test_submission,
)
from launch.console import EXIT_FAILED, say
from launch.local_runs import new_job_folder
from launch.preprocess import Preprocess
from launch.slurm_nodes import Request, cluster_limits, resources_of
from launch.slurm_runs import SlurmRun

PARALLELISM = 128
POLL_SECONDS = 2.0


def job_parent(store: Store) -> Path:
    """Return where the jobs that make a shard set have their folders."""
    if store.is_local:
        return store.local_path("job")
    return Path("runs_instruct/preprocess-jobs").resolve() / store.url.rsplit("/", 1)[-1]


class ShardArray:
    """
    The array jobs that make one shard set.

    Args:
        store: The shard set.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._note = job_parent(store) / "slurm.json"

    def job(self) -> SlurmRun | None:
        """Return the jobs that made the shards last, or are making them."""
        return SlurmRun.found(self._note)

    def running(self) -> SlurmRun | None:
        """Return the jobs that are making the shards now, if there are any."""
        job = self.job()
        return job if job is not None and job.is_running() else None

    def show(self, flags: Preprocess, request: Request, tasks: Sequence[int]) -> None:
        """Print the batch scripts that `submit` would queue; Slurm judges them too."""
        folder = job_parent(self._store) / "NEXT"
        for resources in self._arrays(flags, request, tasks):
            test_submission(folder, resources)
            say(f"\n{batch_script(folder, resources)}")

    def submit(self, flags: Preprocess, request: Request, plan: Plan, tasks: Sequence[int]) -> int:
        """Queue the tasks; return the exit code."""
        parent = job_parent(self._store)
        arrays = list(self._arrays(flags, request, tasks))
        for note in request.notes:
            say(note)
        for resources in arrays:
            test_submission(parent, resources)
        folder = new_job_folder(parent)
        freeze_code(folder)
        job = SlurmRun(folder)
        for resources in arrays:
            function = PreprocessJob(
                self._store.url, flags.num_tasks, resources.first_task, flags.tokenizer
            )
            job_id = submit_slurm(function, folder, resources)
            job.write_note(self._note)
            say(f"Job {job_id}: array {resources.array} of partition {request.partition}")
        say(f"Shards: {len(tasks)} tasks make what is missing; logs in {folder}")
        say(
            f"See: python launch/status.py; train as soon as they are there: "
            f"python launch/finetune.py --shards {self._store.url}"
        )
        return self.follow(job, plan) if flags.follow else 0

    def _arrays(
        self, flags: Preprocess, request: Request, tasks: Sequence[int]
    ) -> Iterator[Resources]:
        """Yield what to ask for, one array of at most MaxArraySize after the other."""
        most = cluster_limits().max_array_size
        if most < 2:
            raise ConfigError(
                "Slurm allows no array jobs here (MaxArraySize). Use --cluster local."
            )
        name = f"shards-{self._store.url.rsplit('/', 1)[-1]}"
        one = resources_of(name, flags.slurm, request)
        # Two arrays share what may run at a time.
        firsts = sorted({task // most * most for task in tasks})
        parallelism = max(1, (flags.array_parallelism or PARALLELISM) // len(firsts))
        for first in firsts:
            numbers = [task - first for task in tasks if first <= task < first + most]
            array = f"{array_text(numbers)}%{parallelism}"
            yield replace(one, array=array, first_task=first)

    def follow(self, job: SlurmRun, plan: Plan) -> int:
        """Show how many shards are there until the jobs have ended; return the exit code."""
        store = self._store
        try:
            with progress_bar("Shards") as bar:
                shown = bar.add_task("", total=plan.num_shards)
                while job.is_running():
                    bar.update(shown, completed=plan.num_shards - len(missing_shards(store, plan)))
                    time.sleep(POLL_SECONDS)
                bar.update(shown, completed=plan.num_shards - len(missing_shards(store, plan)))
        except KeyboardInterrupt:
            say(f"Stopped watching; the jobs go on. End them: scancel {' '.join(job.job_ids)}")
            return 0
        failed = sorted(path.parent for path in job.folder.glob("task-*/failed.json"))
        if failed or not store.exists("manifest.json"):
            return report_failures(failed, len(list(job.folder.glob("task-*"))))
        return report_ready(store)


def report_failures(folders: Sequence[Path], num_tasks: int) -> int:
    """Say why tasks failed, on one line; return the exit code."""
    outcomes = [outcome for folder in folders if (outcome := read_outcome(folder))]
    reason = outcomes[0]["error"] if outcomes else "they were killed, or cancelled."
    print(
        f"error: {len(folders)} of {num_tasks} tasks failed: {reason} Give the same command again "
        "to make what is missing.",
        file=sys.stderr,
    )
    return EXIT_FAILED


def report_ready(store: Store) -> int:
    """Say that a shard set is whole; return the exit code."""
    manifest = load_manifest(store)
    say(
        f"Shards are ready in {store.url}: {manifest['train_rows']:,} rows and "
        f"{manifest['train_tokens']:,} tokens to train on, {manifest['val_rows']:,} rows to validate."
    )
    return 0
