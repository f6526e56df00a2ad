"""
An array that is on its way already: what it was asked for, and what it does not take any more.

    note_asked(folder, flags)            # when it is queued
    refuse_changes(work, job)            # when the same command is given again

`asked.json` in the folder of the jobs has the flags that its tasks were queued with.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from jobs.job_folder import read_json
from launch.arrays.work import Work
from launch.cluster.slurm import SlurmJob
from launch.flags.array import ArrayFlags
from launch.flags.site import parse_typed
from launch.flags.slurm import SlurmFlags
from launch.flags.typed import OF_THE_COMMAND, difference, differences, refuse_typed

ASKED = "asked.json"
NOT_OF_THE_PLAN = ("array", "slurm", "encoder")  # all else is, and refused as another plan


def note_asked(folder: Path, flags: Any) -> None:
    """Write down with which flags the tasks of a folder are queued."""
    asked = {name: value for name, value in asdict(flags).items() if name in NOT_OF_THE_PLAN}
    (folder / ASKED).write_text(json.dumps(asked), encoding="utf-8")


def refuse_changes(work: Work, job: SlurmJob) -> None:
    """
    Refuse flags that were typed and are not those of an array on its way.

    Raises:
        ConfigError: Names the flags, both values of each, and what to do.
    """
    asked = read_json(job.folder / ASKED)
    known = {field.name for field in fields(work.flags)} & asked.keys()
    values = {name: asked[name] for name in known}
    if "array" in values:
        has = {field.name for field in fields(ArrayFlags)}
        values["array"] = ArrayFlags(**{k: v for k, v in values["array"].items() if k in has})
    if "slurm" in values:
        values["slurm"] = SlurmFlags.of(values["slurm"])
    flags = replace(work.flags, **values)
    typed = parse_typed(type(flags), work.words, default=flags)
    # A source that is typed again would be one more; another one is refused as another plan.
    found = differences(typed, flags, (*OF_THE_COMMAND, "source")) if asked else []
    if typed.array.cluster in ("local", "debug"):
        found.append(difference("cluster", "slurm", typed.array.cluster))
    state = f"{work.what} {work.where} are being made already: job {job.job_id}, {job.state()}"
    refuse_typed(state, found, job.cancel_command)
