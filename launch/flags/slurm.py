"""
What a job asks of Slurm, as flags; the local executor has no use for them. No heavy imports.

    minutes_in("1-12:00:00")     # 2160
    gigabytes_in("500M")         # 0.48828125

Times and sizes may be written as sbatch takes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

import tyro

from instruct_core.errors import ConfigError
from instruct_core.recipe import RARE, flag_of
from launch.flags.parse import check_counts
from launch.flags.sbatch import check_options
from launch.flags.values import LONGEST_NUMBER, PATH, optional, required, whole

NAMES = (
    "partition", "account", "qos", "gpu_type", "constraint", "exclude", "container", "container_python",
    "clusters",
)  # fmt: skip
GIGABYTES = {"K": 1 / 1024**2, "M": 1 / 1024, "G": 1, "T": 1024}
CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def minutes_in(text: str) -> int:
    """
    Return a time limit as sbatch takes it in minutes; seconds count as a whole minute.

    Raises:
        ValueError: It is none of minutes, minutes:seconds, hours:minutes:seconds, days-hours,
            days-hours:minutes and days-hours:minutes:seconds.
    """
    found = CLOCK.fullmatch(text)
    if found is None or len(text) > LONGEST_NUMBER:
        raise ValueError(text)
    days, *parts = found.groups()
    clock = [int(part) for part in parts if part is not None]
    if days is None and len(clock) < 3:
        clock.insert(0, 0)  # without days, one number is minutes and two are minutes and seconds
    hours, minutes, seconds = [*clock, 0, 0][:3]
    return int(days or 0) * 1440 + hours * 60 + minutes + math.ceil(seconds / 60)


def gigabytes_in(text: str) -> float:
    """
    Return a size as sbatch takes it, except that a plain number is in GB.

    Raises:
        ValueError: It is no number, alone or with K, M, G or T.
    """
    unit = text[-1:].upper()
    return float(text[:-1]) * GIGABYTES[unit] if unit in GIGABYTES else float(text)


TIME = optional("TIME", "minutes or [days-]hours:minutes:seconds", minutes_in)
MEMORY = optional("SIZE", "GB, or a number with K, M, G or T as in 500M", gigabytes_in)
GPUS = required("N", "a number (of a kind of GPU: --gpus 4 --gpu-type a100)", whole)
PARTITIONS = tyro.conf.arg(metavar="NAME[,NAME]")
OPTION = tyro.conf.arg(metavar="KEY=VALUE")
LINE = tyro.conf.arg(metavar="LINE")


@dataclass(frozen=True)
class SlurmFlags:
    """What the job asks of Slurm; without Slurm these are not used, and a line says so."""

    partition: Annotated[str | None, PARTITIONS] = None
    """Partition (default: the cluster's); of several with commas, the one that starts the job first."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    time: Annotated[int | None, TIME] = None
    """Time limit of one start, as sbatch takes it: minutes, minutes:seconds, hours:minutes:seconds,
    days-hours[:minutes[:seconds]] (default: the partition's, at most 24 hours); the run comes back
    after it."""
    mem: Annotated[float | None, MEMORY] = None
    """Memory per node: GB, or with a unit as in 500M, 2G, 1T (default: the share of the node that
    goes with its GPUs or cores)."""
    cpus_per_task: int | None = None
    """Cores per rank (default: the share of the node that goes with a GPU)."""
    gpu_type: str | None = None
    """Kind of GPU, by the cluster's own name for it, as in a100 (sinfo -o %G shows them)."""
    constraint: str | None = None
    """Feature that the nodes must have."""
    exclude: Annotated[str | None, tyro.conf.arg(metavar="NODES")] = None
    """Nodes that must not be used."""
    after: Annotated[str | None, tyro.conf.arg(metavar="JOB")] = None
    """Job that must end well first; its id, or several with commas."""
    sbatch: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, OPTION] = ()
    """Any other option of sbatch, as in reservation=course; KEY= leaves out what would be written, as
    in mem=. May be given several times."""
    setup: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, LINE] = ()
    """Line of shell that runs on the first node before the ranks start, as in 'module load cuda'. May be
    given several times."""
    container: Annotated[str | None, tyro.conf.arg(metavar="IMAGE")] = None
    """Image that the ranks run in, with pyxis, apptainer or enroot, whichever is here."""
    container_python: Annotated[str | None, RARE, PATH] = None
    """Python in the image, as in python3 (default: that of the active environment, which is mounted)."""
    clusters: Annotated[str | None, RARE] = None
    """Slurm cluster that the job goes to, where there are several (default: SLURM_CLUSTERS)."""
    lead: Annotated[int | None, RARE] = None
    """Seconds from Slurm's warning to its kill (default: 120, or what the run's steps and saves
    have been seen to need)."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> SlurmFlags:
        """Return what `asdict` gave and JSON has carried; what a newer version knows is left out."""
        lists = {field.name for field in fields(cls) if field.default == ()}
        known = {field.name for field in fields(cls)} & document.keys()
        values: dict[str, Any] = {name: document[name] for name in known}
        return cls(**values | {name: tuple(values[name]) for name in lists & known})


def without_slurm(flags: SlurmFlags) -> list[str]:
    """Return the line that says which flags mean nothing on this machine; none where none was given."""
    given = [
        flag_of(each.name) for each in fields(flags) if getattr(flags, each.name) != each.default
    ]
    return [f"Not used without Slurm: {', '.join(given)}"] if given else []


def check_slurm_flags(flags: SlurmFlags) -> None:
    """
    Refuse values that make sense on no cluster.

    Raises:
        ConfigError: Names the flag, the value and what it must be.
    """
    check_counts(flags, "time", "cpus_per_task", "lead")
    if flags.mem is not None and not 0 < flags.mem < 1e6:
        raise ConfigError(f"--mem must be more than 0 and less than 1,000,000 GB, got {flags.mem}.")
    if flags.lead is not None and flags.time is not None and flags.lead >= 60 * flags.time:
        raise ConfigError(
            f"--lead must be less than the time limit of {60 * flags.time} s, got {flags.lead}."
        )
    if flags.after is not None and not re.fullmatch(r"\d+(,\d+)*", flags.after):
        raise ConfigError(f"--after must be job ids separated by commas, got {flags.after}.")
    for name in NAMES:
        value = getattr(flags, name)
        if value is not None and (not value.strip() or not value.isprintable()):
            raise ConfigError(
                f"{flag_of(name)} must not be empty, and be one line that can be printed, got {value!r}."
            )
    check_options(flags.sbatch)
    for line in flags.setup:
        if not line.strip() or not line.isprintable():
            raise ConfigError(f"--setup takes one line of shell, got {line!r}.")
    if flags.container_python is not None and flags.container is None:
        raise ConfigError("--container-python is of an image: give --container too.")
    if flags.clusters is not None and "," in flags.clusters:
        raise ConfigError(f"--clusters must be one cluster, got {flags.clusters}.")
