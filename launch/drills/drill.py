"""
A drill: train twice, compare, and say what became of every fault.

    exit_code = drill(flags)

Both runs lie in a folder of their own, in the folder that the command is typed in (on Slurm that must
be one that the nodes see). It is removed at the end, unless something was not as promised.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from instruct_core.errors import ConfigError, DrillError
from instruct_core.recipe import flag_of
from jobs.drill import Fault
from launch.cluster.gpus import visible_gpus
from launch.cluster.machine import check_nodes_here, choose_cluster
from launch.cluster.request import request_of
from launch.console.display import show_table
from launch.console.lines import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    counted,
    say,
    say_whole,
    term_as_interrupt,
)
from launch.drills.comparison import first_difference, first_other_samples
from launch.drills.schedule import drawn, save_every, schedule_of
from launch.drills.trial import RefusedError, Trial, type_command
from launch.drills.verdict import Verdict, judge
from launch.flags.drill import DEFAULT_FAULTS, Drill
from launch.runs.hub import found_weights
from launch.runs.one_run import show_receipt
from launch.runs.places import absolute
from launch.runs.shard_sets import find_shards


class Plan(NamedTuple):
    """What a drill does."""

    faults: list[Fault]
    cluster: str
    gpus: int  # ranks of each machine
    save_every: int


@term_as_interrupt()
def drill(flags: Drill) -> int:
    """Do the drill and say how it ended; return the exit code."""
    plan = _plan(flags)
    what = f"{flags.steps} steps of {flags.init or flags.model or 'tiny'}"
    ranks = counted(flags.nodes * plan.gpus, "rank")
    say(f"Drill: {what} on {ranks}, hit by {' '.join(map(str, plan.faults)) or 'nothing'}")
    folder = _new_folder()
    keep = flags.keep
    try:
        verdict = _try(flags, plan, folder)
        keep = keep or not verdict.is_equal
    except RefusedError:
        return EXIT_BAD_INPUT
    except DrillError as error:
        verdict, keep = Verdict([], None, [str(error)], flags.steps, 0), True
    finally:
        if not keep:
            shutil.rmtree(folder)
    _tell(verdict)
    if keep:
        say(f"Both runs stay in {folder}")
    if flags.json:
        say_whole(json.dumps(verdict.to_json()))
    return 0 if verdict.is_equal else EXIT_FAILED


def _new_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="drill-", dir=".")).resolve()
    except OSError as error:
        raise ConfigError(
            f"A drill makes its runs where it is typed, and {Path.cwd()} cannot be written: "
            f"{error.strerror}. Go to another folder: cd"
        ) from None


def _plan(flags: Drill) -> Plan:
    """Return what is done; what its runs would be refused for is refused before anything is made."""
    if flags.shards is not None:
        find_shards(flags.shards, flags.slurm.after)
    if flags.init is not None and flags.init != "random":
        found_weights(flags.init)
    cluster, _ = choose_cluster(flags.cluster, flags.slurm.clusters)
    on_slurm, gpus = cluster == "slurm", flags.gpus
    if not on_slurm and gpus == Drill.gpus and visible_gpus().number == 1:
        gpus = 1  # nobody typed two
    if flags.shard == "full" and flags.nodes * gpus < 2:
        raise ConfigError(
            "--shard full takes two ranks or more, got one: it would have the model whole, and prove "
            "nothing. Give --gpus 2, or leave it out."
        )
    if on_slurm:
        request_of(flags.slurm, flags.nodes, gpus)
    else:
        check_nodes_here(flags.nodes)
    run = (flags.steps, flags.nodes * gpus, on_slurm)
    if flags.random_faults is not None:
        faults = drawn(flags.random_faults, flags.seed, *run)
    else:
        typed = DEFAULT_FAULTS if flags.faults is None else flags.faults
        faults = schedule_of(typed, *run)
    return Plan(faults, cluster, gpus, save_every(faults))


def _try(flags: Drill, plan: Plan, folder: Path) -> Verdict:
    shards = absolute(flags.shards) if flags.shards is not None else _make_shards(folder)
    arguments = _arguments(flags, plan, shards)
    undisturbed, hit = (Trial(name, folder, arguments) for name in ("undisturbed", "hit"))
    undisturbed.run()
    hit.run(plan.faults)
    difference = first_difference(undisturbed.checkpoints, hit.checkpoints, flags.steps)
    others, num_samples = first_other_samples(
        undisturbed.ledger.local_path(""), hit.ledger.local_path("")
    )
    difference = difference or others
    found = judge(plan.faults, hit.hits(), hit.entries(), plan.save_every, difference)
    recoveries, problems = found
    return Verdict(recoveries, difference, problems, flags.steps, num_samples, hit.receipt())


def _make_shards(folder: Path) -> str:
    out = str(folder / "shards")
    words = ("--source=builtin", "--limit-rows=100", "--num-tasks=1", "--cluster=local")
    code = type_command(["preprocess", *words, f"--out={out}"])
    if code == EXIT_BAD_INPUT:
        raise RefusedError
    if code != 0:
        raise DrillError("the shards of the drill could not be made")
    return out


def _arguments(flags: Drill, plan: Plan, shards: str) -> list[str]:
    """Return what both runs are started with: small steps, and dropout, so that generators count."""
    tokens_per_step = 4 * flags.nodes * plan.gpus * flags.seq_len
    is_random = flags.init in (None, "random")
    return [
        f"--nodes={flags.nodes}", f"--gpus={plan.gpus}", f"--cluster={plan.cluster}",
        f"--shards={shards}", f"--init={flags.init or 'random'}",
        *([f"--model={flags.model or 'tiny'}"] if is_random else []),
        f"--max-steps={flags.steps}", f"--save-every={plan.save_every}",
        f"--eval-every={flags.steps}", f"--seq-len={flags.seq_len}", "--micro-batch-size=2",
        f"--tokens-per-step={tokens_per_step}", "--warmup-steps=2", "--learning-rate=1e-3",
        "--dropout=0.1", f"--shard={flags.shard}", "--record-samples", *_slurm_arguments(flags),
    ]  # fmt: skip


def _slurm_arguments(flags: Drill) -> Sequence[str]:
    typed = {flag_of(field.name): getattr(flags.slurm, field.name) for field in fields(flags.slurm)}
    return [
        f"{flag}={one}"
        for flag, value in typed.items()
        if value is not None
        for one in (value if isinstance(value, tuple) else (value,))
    ]


def _tell(verdict: Verdict) -> None:
    if verdict.recoveries:
        table = Table("fault", "rank", "steps lost", "went on after")
        for fault, hit, lost, seconds in verdict.recoveries:
            rank = str(fault.rank) if fault.kind in ("kill", "save", "stop") else "all"
            cost = (str(lost), f"{seconds} s") if hit is not None else ("never came", "")
            table.add_row(str(fault), rank, *cost)
        show_table(table)
    if verdict.receipt is not None:
        say("Where the seconds of the run that was hit went:")
        show_receipt(verdict.receipt)
    if not verdict.is_equal:
        say(f"Not proven: {'; '.join(verdict.problems).rstrip('.')}.")
        return
    say(
        f"Equal, bit for bit: weights, optimizer and random generators of step {verdict.num_steps}, "
        f"and {counted(verdict.num_samples, 'sample')} read."
    )
