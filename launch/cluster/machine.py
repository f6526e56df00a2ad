"""
What this machine has, and whether jobs run here or on Slurm.

    machine = this_machine()
    cluster, why = choose_cluster("auto")
"""

from __future__ import annotations

import os
import shutil
from typing import Literal, NamedTuple

from instruct_core.errors import ConfigError, SlurmError
from jobs.environment import ask_for_huge_pages
from jobs.slurm import run_client
from launch.cluster.gpus import check_torch_sees, visible_gpus
from launch.cluster.memory import free_memory
from launch.flags.parse import Cluster


class Machine(NamedTuple):
    """What one node gives a run."""

    num_gpus: int
    num_cores: int
    memory_bytes: int | None  # None where nobody knows
    name: str  # for messages
    remedy: str = "fewer --gpus"  # where memory does not suffice
    gpu_bytes: int | None = None  # free memory of its smallest GPU, where that is known
    has_bf16: bool = True  # whether its GPUs compute in it; those of a partition are taken to


class Choice(NamedTuple):
    """Where jobs run, and why it is here where nobody typed that; "" if somebody did."""

    cluster: Literal["slurm", "local", "debug"]
    why: str


CLUSTERS = "SLURM_CLUSTERS"  # names the cluster that Slurm's clients ask, where there are several
THIS_MACHINE = "this machine"
LOOK_SECONDS = 15.0  # for Slurm to answer a person who waits
# What Slurm's clients say where they are installed and no cluster is: the package alone, as after
# `make test`. A cluster that does not answer is another thing.
NO_CLUSTER = "Could not establish a configuration source"
# Read when torch is loaded. Threads that spin for long while they wait for each other keep the very
# thread they wait for from a core that others use too; those that sleep too soon are woken after every
# product. This many turns are 0.3 to 1 ms, longer than what one thread does between two products; the
# default is 15 times as many. See bench/busy_cores.py; libgomp's manual.
THREADS = {"GOMP_SPINCOUNT": "20000"}


def this_machine() -> Machine:
    """
    Return what this machine gives.

    Raises:
        ConfigError: It has GPUs, and torch cannot use them.
    """
    gpus = visible_gpus()
    if gpus.number:
        check_torch_sees(gpus.number)
    return Machine(
        gpus.number,
        num_cores(),
        free_memory(),
        THIS_MACHINE,
        gpu_bytes=gpus.free_bytes,
        has_bf16=gpus.has_bf16,
    )


def choose_cluster(asked: Cluster, clusters: str | None = None) -> Choice:
    """
    Return where jobs run.

    Args:
        asked: As typed.
        clusters: Which of several Slurms; see `use_cluster`.

    Raises:
        ConfigError: Slurm was typed and is not here, or is here and does not answer: this may be
            its login node, and nobody has said that jobs may run on it.
    """
    if asked in ("local", "debug"):
        return Choice(asked, "")
    named = use_cluster(clusters)
    if shutil.which("sbatch") is None:
        if asked == "slurm":
            raise ConfigError("--cluster slurm needs sbatch on PATH, and there is none. Log in to a "
                              "node of the cluster, or use --cluster local.")  # fmt: skip
        return Choice("local", "no sbatch here")
    try:
        run_client(["sinfo", "-h", "-o", "%P"], timeout_seconds=LOOK_SECONDS)
    except SlurmError as error:
        if asked == "slurm":
            raise ConfigError(f"--cluster slurm cannot be used{named}: {error}") from None
        if NO_CLUSTER in str(error):
            return Choice("local", "sbatch is installed here, and no cluster is configured")
        raise ConfigError(
            f"Slurm is installed here and does not answer{named}: {str(error).rstrip('.')}. Try again, "
            "or type --cluster local to run here."
        ) from None
    return Choice("slurm", "")


def check_nodes_here(nodes: int) -> None:
    """Refuse more machines than this one; raises ConfigError."""
    if nodes != 1:
        raise ConfigError(
            f"--nodes must be 1 on this machine, got {nodes}. Use --nodes 1 and more --gpus."
        )


def use_cluster(typed: str | None) -> str:
    """
    Have all of Slurm's clients ask the cluster that the job will go to.

    Args:
        typed: Its name; else SLURM_CLUSTERS or SBATCH_CLUSTERS is taken.

    Returns:
        The variable that was taken, for messages, as in " (SLURM_CLUSTERS=moon)"; "" for none.

    Raises:
        ConfigError: They name several: what one offers is not what another does.
    """
    variable = next(filter(os.environ.get, (CLUSTERS, "SBATCH_CLUSTERS")), "")
    name = typed or os.environ.get(variable, "")
    if "," in name:
        raise ConfigError(f"{variable} names several clusters, {name}. Give one with --clusters.")
    if name:
        os.environ[CLUSTERS] = name
    return f" ({variable}={name})" if name and not typed else ""


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def set_up_torch() -> None:
    """Have the torch of this process answer: threads sleep soon, unless the person has said otherwise."""
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)
    ask_for_huge_pages()
