"""
How many open files a run's ranks need, and have. No torch.

    allow_open_files(num_ranks=1000)      # before the ranks meet
    most_ranks(at_most=1024)              # 804

Rank 0 holds most: one connection of each rank to its store. Exchanges go round a ring or along a
tree, and gloo connects two ranks when they first have something to say: twice as many ranks are one
or two connections more for each. Counted by bench/many_ranks.py.
"""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)

# Python, logs, torch and its two groups (60 with 64 ranks on CPUs), a GPU's own and nccl's; 128 shards.
FILES_OF_A_RANK = 220


def files_for(num_ranks: int) -> int:
    """Return how many files rank 0 of a run has open at most."""
    return FILES_OF_A_RANK + num_ranks


def most_ranks(at_most: int) -> int:
    """Return the ranks of the largest run for which a limit of open files suffices."""
    return max(0, at_most - FILES_OF_A_RANK)


def allow_open_files(num_ranks: int) -> None:
    """
    Raise this process's limit of open files as far as a run needs it and the system lets it.

    Slurm hands on the soft limit of the shell that submits, mostly 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files_for(num_ranks)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        logger.warning(
            "A run of %d ranks may need %d open files, and the hard limit of this machine is %d: have an "
            "administrator raise it.", num_ranks, needed, hard,
        )  # fmt: skip
        needed = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
