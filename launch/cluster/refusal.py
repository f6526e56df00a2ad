"""
What Slurm says of a job before it is queued, and what to type where a site's Slurm refuses one of the
options that a job of ours always has.

    said = judged(script, resources)             # raises SlurmError where Slurm refuses it
    remedy(script, "Memory limits are not allowed here")
    # "It takes the job without --mem. Type: --sbatch mem="

A site's own plugin refuses in words of its own. So Slurm is asked again, without each option in turn: the
answer is what helps and not what the words may mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from instruct_core.errors import SlurmError
from jobs.slurm import clean_environment, run_client
from launch.cluster.partition import too_few_are_up
from launch.cluster.script import Resources, option_in

# Options that a job can do without, or say in another way, in the order in which they are tried.
CAN_GO = ("requeue", "mem", "gpus-per-node", "cpus-per-task", "signal", "open-mode")
# Slurm judges by the nodes that are up, and says this also of a job that would only wait for others.
NO_SUCH_NODES = "Requested node configuration is not available"


def judged(script: str, resources: Resources) -> str:
    """
    Return what Slurm says of a job that it would take; "" where too few nodes are up for a judgement.

    Raises:
        SlurmError: It would not take the job; says why.
    """
    try:
        return _judgement(script)
    except SlurmError as error:
        if NO_SUCH_NODES not in str(error):
            raise
    if too_few_are_up(resources.partition, resources, resources.nodes + resources.spare_nodes):
        return ""
    return _judgement(script)  # they may have come up meanwhile: its controller began anew


def _judgement(script: str) -> str:
    return run_client(["sbatch", "--test-only"], clean_environment(), stdin=script)


def remedy(script: str, said: str) -> str:
    """
    Return what to type so that Slurm takes a job that it refuses; "" where nothing helps.

    Args:
        script: That it refuses.
        said: Why, in its own words; options that are in them are tried first.
    """
    written = {option_in(line) for line in script.splitlines()}
    named = [key for key in CAN_GO if key in said]
    candidates = [key for key in dict.fromkeys([*named, *CAN_GO]) if key in written]
    for key in candidates:
        if _takes(changed(script, [key])):
            return _advice(script, [key])
    if not _takes(changed(script, candidates)):
        return ""
    gone = candidates
    for key in reversed(candidates):  # some of them do no harm
        fewer = [other for other in gone if other != key]
        if _takes(changed(script, fewer)):
            gone = fewer
    return _advice(script, gone)


def changed(script: str, keys: Iterable[str]) -> str:
    """Return a script without some options; GPUs are asked for as --gres then."""
    lines = []
    for line in script.splitlines():
        if option_in(line) not in keys:
            lines.append(line)
        elif option_in(line) == "gpus-per-node":
            lines.append(f"#SBATCH --{_gres(line)}")
    return "\n".join(lines)


def _gres(line: str) -> str:
    return f"gres=gpu:{line.partition('=')[2]}"


def _advice(script: str, keys: Sequence[str]) -> str:
    lines = {option_in(line): line for line in script.splitlines()}
    typed = [_gres(lines[key]) if key == "gpus-per-node" else f"{key}=" for key in keys]
    names = " and ".join(f"--{key}" for key in keys)
    words = " ".join(f"--sbatch {word}" for word in typed)
    return f"It takes the job without {names}. Type: {words}"


def _takes(script: str) -> bool:
    try:
        _judgement(script)
    except SlurmError:
        return False
    return True
