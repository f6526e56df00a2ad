"""
A run that is on its way already: watch it, name it, or refuse what was typed and it will not take.

    if (exit_code := attach(flags, run, known)) is not None:
        return exit_code
"""

from __future__ import annotations

from dataclasses import replace

from instruct_core.checkpoints.attempts import host_of, newest_attempt
from instruct_core.errors import ConfigError
from launch.cluster.local import LocalJob
from launch.cluster.lock import RunLock
from launch.cluster.lost import adopt_lost
from launch.cluster.slurm import UNKNOWN, SlurmJob
from launch.console.lines import say
from launch.flags.finetune import Finetune, is_fork
from launch.flags.typed import difference, differences, refuse_typed
from launch.runs.attempts import LOST
from launch.runs.commands import run_command
from launch.runs.follower import watch, watch_slurm
from launch.runs.places import absolute
from launch.runs.run import Run
from launch.runs.status import RunStatus
from launch.training.settings import SPARES_MEMORY, open_settings, refuse_conflicts


def attach(flags: Finetune, run: Run, known: Finetune | None) -> int | None:
    """
    Attach to a run that is queued or training; return the exit code, or None if it is neither.

    Args:
        flags: What the person typed, and the run's own values where nothing was.
        run: That is meant.
        known: The run's own values; None if it has none yet.

    Raises:
        ConfigError: Something else was typed than the run has, or it is just ending, or nobody can
            tell whether it still runs.
    """
    if (local := LocalJob.found(run.lock)) is not None:
        what = f"Run {run.name} is training already{local.where} (job {local.pid})"
        here = ("auto", "local")
        _refuse_changes(what, flags, run, known, here, f"{local.how_to_stop}, which saves,")
        say(f"{what}{'' if flags.dry_run else '; watching it'}.")
        if local.where and not RunLock.works(run.lock):
            say(f"Note: this disk has no locks. If that job has ended, remove {run.lock}.")
        return 0 if flags.dry_run else watch(local, run)
    adopt_lost(run.job_parent, run.slurm_note, flags.dry_run, run.ledger.url)
    queued = SlurmJob.found(run.slurm_note)
    if queued is None or not queued.is_running() or queued.never_starts():
        if elsewhere := attempt_elsewhere(run):
            say(f"Note: {elsewhere}")
        return None  # one that never starts is replaced when all else is right
    state = queued.state()
    if state == UNKNOWN:
        raise ConfigError(
            f"Run {run.name} may be on Slurm still (job {queued.job_id}): Slurm does not answer. Try "
            f"again; if you know that the job has ended, remove {run.slurm_note}."
        )
    if queued.is_ending():
        raise ConfigError(
            f"Run {run.name} is ending (job {queued.job_id}, {state}). Give the same command again in "
            "a moment."
        )
    what = f"Run {run.name} is on Slurm already: job {queued.job_id}, {state}"
    _refuse_changes(what, flags, run, known, ("auto", "slurm"), queued.cancel_command)
    say(f"{what}.")
    if flags.follow and not flags.dry_run:
        return watch_slurm(queued, run)
    follow = run_command(run.store, "logs", "-f")
    say(f"Follow it: {follow}; end it: {queued.cancel_command}")
    return 0


def attempt_elsewhere(run: Run) -> str:
    """
    Return what is said of a run in a bucket whose newest attempt was begun from elsewhere; "" else.

    Its lock is on a disk, and reaches no other site: only what attempts leave in the bucket does.
    """
    number = -1 if run.store.is_local else newest_attempt(run.store)
    if number < 0:
        return ""
    status = RunStatus.of(run)
    told = [attempt for attempt in status.attempts() if attempt.attempt == number]
    if number in status.steps_reached() or any(attempt.end != LOST for attempt in told):
        return ""
    return (
        f"attempt {number} of this run was begun from another folder, on {host_of(run.store, number)}, "
        "and nobody has told of its end. If it still trains, this command takes the run over: that "
        "attempt ends at its next save, and what it did since its last one is done again."
    )


def _refuse_changes(
    what: str,
    flags: Finetune,
    run: Run,
    known: Finetune | None,
    clusters: tuple[str, ...],
    first: str,
) -> None:
    """
    Refuse flags that differ from those of a run on its way.

    Raises:
        RunConflictError: The run could not take them later either.
        ConfigError: It could, once it is ended.
    """
    if known is None:
        return
    has = run.config
    left_open = {name: getattr(has, name) for name in open_settings(flags.recipe)}
    typed = replace(
        flags,
        recipe=replace(flags.recipe, **left_open),
        shards=_whole(flags.shards),
        init=_whole(flags.init),
    )
    fitted = {name: getattr(has, name) for name in ("micro_batch_size", *SPARES_MEMORY)}
    after = run.asked["slurm"].get("after")
    known = replace(
        known,
        recipe=replace(known.recipe, **fitted),
        slurm=replace(known.slurm, after=after if flags.slurm.after else None),
    )
    found = differences(typed, known)
    if flags.cluster not in clusters:
        found.append(difference("cluster", clusters[-1], flags.cluster))
    if flags.notify not in (None, known.notify):
        found.append("--notify is another")
    if found and run.has_begun():
        init = has.init if typed.init in (None, known.init) else typed.init
        refuse_conflicts(replace(has, init=init, **typed.recipe.values), has)
    refuse_typed(what, found, first)


def _whole(place: str | None) -> str | None:
    return place if place in (None, "random") or is_fork(place) else absolute(str(place))
