"""
What a run needs of this machine: Python, torch and its GPUs, the tokenizer, data, open files.

    torch = ask_torch()                             # two seconds: a process of its own
    findings = [check_python(), check_torch(torch, num_gpus=4), check_tokenizer(), check_data()]

Jobs run in the environment that is active when they are submitted, so this is theirs too.
"""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from instruct_core.data.gpt2_tokenizer import merges_path, read_merges
from instruct_core.errors import InstructError
from jobs.open_files import files_for, most_ranks
from launch.checkup.finding import Finding, fails, note, ok, refused
from launch.cluster.gpus import Torch
from launch.console.commands import command
from launch.console.lines import counted

OLDEST_PYTHON = (3, 11)  # setup.cfg
INSTALL = "Install what is missing: pip install -c constraints.txt -e ."


def check_python() -> Finding:
    """Return which Python jobs will run in."""
    found = f"{platform.python_version()}, {sys.prefix}"
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return fails("python", found, f"Activate an environment with Python {oldest} or newer")
    return ok("python", found)


def check_torch(torch: Torch, num_gpus: int, gpus_per_node: int = 0) -> Finding:
    """
    Return whether torch can use the GPUs that there are.

    Args:
        torch: What it says.
        num_gpus: Of this machine, as the driver says.
        gpus_per_node: Of the partition.
    """
    if not torch.version:
        found = f"torch cannot be imported: {torch.error}"
        return fails("torch", found, INSTALL)
    built = f"torch {torch.version}, for {f'CUDA {torch.cuda}' if torch.cuda else 'CPUs only'}"
    install = "Install a torch that fits the driver (nvidia-smi shows its CUDA)"
    if torch.num_gpus < num_gpus:
        found = (
            f"{built}, can use {torch.num_gpus} of the {counted(num_gpus, 'GPU')} of this machine"
        )
        hide = "hide them to train on CPU ranks: CUDA_VISIBLE_DEVICES= before the command"
        return fails("torch", found, f"{install}, or {hide}")
    if gpus_per_node and torch.cuda is None:
        found = f"{built}, and the partition's nodes have {counted(gpus_per_node, 'GPU')}"
        return note("torch", found, install)
    return ok("torch", f"{built}; {counted(torch.num_gpus, 'GPU')} here")


def check_tokenizer() -> Finding:
    """Return whether GPT-2's merges are here, for compute nodes have no internet."""
    try:
        read_merges(merges_path())
    except (InstructError, OSError) as error:
        return refused("tokenizer", error, INSTALL)
    return ok("tokenizer", "GPT-2's merges are on the disk")


def check_data() -> Finding:
    """Return what there is to train on without a network."""
    sets = sorted(str(path.parent) for path in Path("shards").glob("*/manifest.json"))
    if sets:
        return ok("data", ", ".join(sets))
    if find_spec("chatterbot_corpus") is None:
        found = "no shards here, and builtin lacks its package chatterbot-corpus"
        return fails("data", found, INSTALL)
    found = "no shards in this folder yet, but builtin needs no network"
    make = command("preprocess", "--source", "builtin", "--out", "shards/builtin")
    return note("data", found, make)


def check_open_files(
    ranks_per_node: int, ranks_in_all: int, config: Mapping[str, str] | None = None
) -> Finding:
    """
    Return whether a rank may open enough files to talk to all others.

    Args:
        ranks_per_node: Of a run on one whole node.
        ranks_in_all: Of the largest run there can be.
        config: Slurm's, which says whether jobs take over the limits of this shell.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY in (soft, hard):
        return ok("open files", "no limit")
    if config is not None and not _takes_over_limits(config):
        return ok("open files", "each node has its own limit (PropagateResourceLimits)")
    # Ranks raise the soft limit that they are given; the hard one of a node is mostly this machine's.
    fit = most_ranks(hard)
    found = f"ulimit -Hn is {hard:,}, enough for {counted(fit, 'rank')}"
    if fit >= ranks_in_all:
        return ok("open files", found)
    fix = f"Have an administrator raise the hard limit of {hard:,} to {files_for(ranks_in_all):,}"
    if fit >= ranks_per_node:
        return note("open files", f"{found} of {ranks_in_all:,}", fix)
    return fails("open files", f"{found}, and a node has {ranks_per_node:,}", fix)


def _takes_over_limits(config: Mapping[str, str]) -> bool:
    """Return whether a job on Slurm has the open files of the shell that it was submitted from."""
    both = ("PropagateResourceLimits", "PropagateResourceLimitsExcept")
    kept, left = (config.get(name, "").upper() for name in both)
    if left not in ("", "(NULL)"):
        return "NOFILE" not in left
    return kept != "NONE" and ("NOFILE" in kept or kept in ("", "(NULL)", "ALL"))
