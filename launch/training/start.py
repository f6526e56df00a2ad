"""
A training run from the person's side: begin it, resume it, or attach to it, and watch.

    exit_code = finetune(flags, sys.argv[1:])

Find the run, attach to it if it is training, find what it starts from, settle its settings, submit
it. Everything is checked before anything is written. `run.json` in the run's checkpoint folder holds
the settings; they are the defaults of every later launch of the same name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from instruct_core.checkpoints.steps import committed_steps, damage_seen_twice
from instruct_core.config import TrainConfig, to_json
from instruct_core.errors import ConfigError, NoCheckpointError
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store
from jobs.control import ask, requests_in, standing
from jobs.finetune import FinetuneJob
from jobs.ledger import lost_save
from launch.arrays.shards import prepare
from launch.cluster.frozen_code import code_difference, code_version
from launch.cluster.lock import RunLock
from launch.cluster.lost import folder_to_submit
from launch.cluster.machine import num_cores
from launch.cluster.slurm import SlurmJob
from launch.console.lines import say, say_whole
from launch.flags.array import ArrayFlags
from launch.flags.finetune import Finetune, check_flags
from launch.flags.preprocess import Preprocess
from launch.flags.site import parse_on_site, parse_typed
from launch.runs.commands import run_command
from launch.runs.control import who
from launch.runs.places import absolute, check_url, reachable
from launch.runs.run import Run
from launch.runs.shard_sets import find_shards
from launch.runs.unfinished import refuse_taken
from launch.training.adapters import check_moments, filled, spelled_as_before
from launch.training.attach import attach
from launch.training.epochs import refuse_both
from launch.training.inputs import check_places, find_inputs, with_data
from launch.training.micro_batch import Ranks, fit
from launch.training.naming import default_name
from launch.training.notification import hand_on, settled
from launch.training.outlook import Plan, outlook
from launch.training.settings import asked_of, resumed_flags, settle
from launch.training.submission import choose_submission
from launch.training.vocabulary import keep_tokenizer


def finetune(flags: Finetune, arguments: Sequence[str], watches: bool = True) -> int:
    """
    Begin, resume or attach to a run, and follow it to its end; return the exit code.

    Args:
        flags: What the person typed.
        arguments: The words.
        watches: False to return as soon as its job is on its way.
    """
    flags, run, known = _find(flags, arguments)
    if (exit_code := attach(flags, run, known)) is not None:
        return exit_code
    stored = run.config if known is not None else None
    begun = stored if _has_begun(run, flags.runs) else None
    submission = choose_submission(flags, run)
    inputs = find_inputs(flags, run, stored, begun is not None)
    flags = replace(flags, recipe=filled(flags.recipe, inputs.adapters))
    config = settle(
        flags, inputs.places, run.name, inputs.shape, submission.machine, inputs.has_template
    )
    if begun is None:
        check_moments(config)
    if inputs.has_shards:
        config = with_data(config, begun, submission.can_wait, flags)
    ranks = Ranks(flags.nodes, flags.gpus)
    adapters = inputs.adapters.number
    typed = flags.recipe.micro_batch_size
    config, why = fit(config, ranks, inputs.shape, submission.machine, typed, begun, adapters)
    steps = committed_steps(run.store)
    # What --epochs come to is known with the shards.
    knows_end = inputs.has_shards or flags.epochs is None
    if begun is not None and knows_end and _is_finished(config, run.store, steps):
        return 0
    check_places(config, inputs.shape, adapters)
    if not inputs.has_shards:  # all that can be wrong has been looked for: now there may be work
        if flags.dry_run:
            say("Would prepare builtin first: no shards are here yet. Nothing is written.")
            return 0
        if (exit_code := _prepare_builtin(config.shards, inputs.tokenizer)) != 0:
            return exit_code
        config = with_data(config, begun, submission.can_wait, flags)
    step, is_new = max(steps, default=0), known is None
    plan = Plan(
        config, inputs.shape, submission, ranks, inputs.init, why, step, is_new, adapters,
        inputs.has_template,
    )  # fmt: skip
    _tell(plan)
    return _show(plan) if flags.dry_run else _start(flags, plan, run, watches)


def _find(flags: Finetune, arguments: Sequence[str]) -> tuple[Finetune, Run, Finetune | None]:
    """
    Return the flags, the run that is meant, and what it has of them if it is there already.

    Its own settings are the flags that were not typed.
    """
    check_flags(flags, is_whole=False)
    refuse_both(flags, arguments)
    # A run that is named knows its shards itself, or they are looked for with all that it begins with.
    name = flags.run or default_name(flags, find_shards(flags.shards, flags.slurm.after))
    run = Run.named(name, flags.checkpoints)
    check_url("--checkpoints", run.checkpoints, writes=not flags.dry_run)
    known = None
    if run.exists():
        stored = resumed_flags(run.config, run.asked)
        known = parse_on_site(Finetune, [], default=stored)
        flags = parse_typed(Finetune, arguments, default=known)
        flags = replace(flags, recipe=spelled_as_before(flags.recipe, known.recipe))
    else:
        refuse_taken(run.name, run.store)
    check_flags(flags)
    notify = settled(flags.notify, known.notify if known is not None else None)
    runs = absolute(flags.runs)
    flags = replace(flags, checkpoints=run.checkpoints, runs=runs, notify=notify)
    check_url("--runs", flags.runs, writes=not flags.dry_run)
    return flags, replace(run, runs=flags.runs), known


def _has_begun(run: Run, runs: str) -> bool:
    """
    Return True if a run has saved.

    Raises:
        NoCheckpointError: It has, by its ledger, and nothing of that is left.
        ConfigError: Its ledger cannot be reached.
    """
    if run.has_begun():
        return True
    with reachable("--runs", runs):
        lost = lost_save(run.ledger, run.store)
    if lost:
        raise NoCheckpointError(lost)
    return False


def _prepare_builtin(shards: str, tokenizer: str) -> int:
    say("Shards: none here yet, so builtin is prepared first, on this machine")
    tasks = ArrayFlags(num_tasks=num_cores(), cluster="local")
    return prepare(Preprocess(source=("builtin",), out=shards, tokenizer=tokenizer, array=tasks))


def _is_finished(config: TrainConfig, store: Store, steps: Sequence[int]) -> bool:
    if not steps or steps[-1] < config.max_steps:
        return False
    if damage := damage_seen_twice(store, steps[-1]):
        say(f"{damage} The run goes on from the one before.")
        return False
    say(
        f"Run {config.run} is finished: step {steps[-1]} of {config.max_steps}. Talk to it: "
        f"{run_command(store, 'chat')}; or go on with a larger --max-steps."
    )
    return True


def _tell(plan: Plan) -> None:
    """Say what is about to happen, once everything has been looked at."""
    rows, notes = outlook(plan), plan.submission.check(plan.config)
    for label, text in rows:
        say(f"{label:8}{text}")
    for note in notes:
        say(note)


def _show(plan: Plan) -> int:
    say("Submits nothing. Settings:")
    say_whole(json.dumps(to_json(plan.config), indent=1))
    if script := plan.submission.script(plan.config):
        say_whole(f"\n{script}")
    return 0


def _start(flags: Finetune, plan: Plan, run: Run, watches: bool) -> int:
    """Write down the run and submit its job; the only part of a launch that changes anything."""
    lock = RunLock(run.lock)
    queued = SlurmJob.found(run.slurm_note)
    replaces = queued is not None and queued.never_starts()
    if not lock.acquire() or (queued is not None and queued.is_running() and not replaces):
        raise ConfigError(
            f"Run {run.name} is being started by another launcher. Try again in a second."
        )
    if queued is not None and replaces:
        queued.cancel()
        say(f"Job {queued.job_id} is cancelled, and replaced: what it waited for has failed.")
    if standing(requests_in(run.store)) is not None:
        ask(run.store, "resume", who())  # or the job would end as soon as it starts
    keep_tokenizer(plan.config.shards, run.store)
    hand_on(flags.notify, run)
    run.store.replace("run.json", dump_document(_document(plan.config, flags)))
    needs_gpu = plan.submission.machine.num_gpus > 0
    function = FinetuneJob(plan.config, code_version(), needs_gpu)
    with folder_to_submit(run.job_parent) as folder:
        submitted = plan.submission.submit(function, folder, lock)
    say(f"Run {run.name}: job {submitted.job.label}; log {submitted.job.log_path()}")
    next_step = "" if watches else submitted.unwatched
    say(f"{'Next':8}{next_step or submitted.next_step}")
    return submitted.follow() if watches else 0


def _document(config: TrainConfig, flags: Finetune) -> dict[str, Any]:
    return {
        "format": 1,
        "written_at": time.time(),
        "code": code_version(),
        "difference": code_difference(),
        "asked": asked_of(flags),
        "config": to_json(config),
    }
