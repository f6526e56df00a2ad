"""
A site's first profile, from what a checkup has found.

    path = write_site(flags.slurm, look.offer)     # ~/.config/instruct-cluster/site.toml

It has what was typed and what Slurm wants left out; what it offers stands there as comments. The format:
launch/flags/site.py.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

from instruct_core.errors import ConfigError, SlurmError
from launch.checkup.scheduler import Offer
from launch.cluster.partition import Node, partitions, usable_nodes
from launch.cluster.request import request_of, resources_of
from launch.cluster.slurm import test_submission
from launch.flags.sbatch import options_of, words_of
from launch.flags.site import VARIABLE, home_profile
from launch.flags.slurm import SlurmFlags
from launch.flags.variables import value_of


def check_can_write() -> Path:
    """
    Return where a first profile goes.

    Raises:
        ConfigError: There is one already.
    """
    place = os.environ.get(VARIABLE) or home_profile()
    if place is None:
        raise ConfigError(
            f"--write-site needs a home to write to, and you have none here. Name a file: {VARIABLE}=FILE"
        )
    path = Path(place).absolute()
    if path.exists():
        raise ConfigError(
            f"--write-site overwrites nothing, and {path} is there. Edit it, move it away, or name "
            f"another file: {VARIABLE}=FILE"
        )
    return path


def write_site(flags: SlurmFlags, offer: Offer | None) -> Path:
    """
    Write a first profile, and return its path.

    Args:
        flags: What was typed, which it has.
        offer: What was found; None where Slurm has not answered.

    Raises:
        ConfigError: There is one already, or nothing was found to write down.
    """
    path = check_can_write()
    if offer is None:
        raise ConfigError("--write-site needs a Slurm that answers, and there is none here.")
    own = replace(
        flags,
        after=None,  # of one job
        partition=value_of("partition", flags.partition) or offer.partition,
        account=value_of("account", flags.account),
        qos=value_of("qos", flags.qos),
    )
    own = replace(own, sbatch=words_of(options_of([*own.sbatch, *wanted_options(own)])))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(profile_text(own, offer))
    return path


def wanted_options(flags: SlurmFlags) -> list[str]:
    """Return the options of --sbatch with which Slurm takes a job that it refuses as it is."""
    try:
        test_submission(Path("job").resolve(), resources_of("doctor", flags, request_of(flags)))
    except (ConfigError, SlurmError) as error:
        return [word for word in str(error).partition(" Type: ")[2].split() if word != "--sbatch"]
    return []


def profile_text(flags: SlurmFlags, offer: Offer) -> str:
    """Return a profile that has these flags, and tells what the cluster offers."""
    cluster = offer.config.get("ClusterName", "this cluster")
    lines = [
        f"# Flags of every command on {cluster}; written by doctor.py, {time.strftime('%Y-%m-%d')}.",
        "# What is typed counts more. A table, as in [preprocess], is for that command alone.",
        *(f"#   {line}" for line in _offers()),
    ]
    for name, value in asdict(flags).items():
        if value not in (None, ()):
            lines.append(f"{name.replace('_', '-')} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join([*lines, ""])


def _offers() -> list[str]:
    """Return a line for each partition that takes jobs."""
    lines = []
    for name, facts in partitions().items():
        if facts.get("State") in ("INACTIVE", "DRAIN"):
            continue
        try:
            nodes = usable_nodes(name, SlurmFlags())
        except ConfigError:  # it has none yet
            continue
        default = " (the default)" if facts.get("Default") == "YES" else ""
        lines.append(
            f"partition {name}{default}: {len(nodes)} nodes, {_largest(nodes)}, at most "
            f"{facts.get('MaxTime', 'unknown')}"
        )
    return lines


def _largest(nodes: list[Node]) -> str:
    node = max(nodes, key=lambda node: (node.gpus, node.cores))
    types = sorted({kind for each in nodes for kind in each.gpu_types})
    kinds = f" ({', '.join(types)})" if types else ""
    memory = f", {node.memory_mb / 1024:.0f} GB" if node.memory_mb else ""
    return f"up to {node.gpus} GPUs{kinds}, {node.cores} cores{memory} each"
