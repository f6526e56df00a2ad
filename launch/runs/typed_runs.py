"""
Whether the place that --runs names has anything of a run.

    refuse_foreign("my-run", "/shared/runs", run.ledger, run.job_parent)      # raises ConfigError

Where nothing of it is there, the run would be told as one that has not begun, and what lies there under
its name would be somebody else's.
"""

from __future__ import annotations

from pathlib import Path

from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from jobs.ledger import has_ledger
from launch.cluster.job_folder import job_folders
from launch.runs.places import check_looked_in, reachable


def refuse_foreign(name: str, runs: str, ledger: Store, job_parent: Path) -> None:
    """
    Refuse a place that has nothing of a run.

    Args:
        name: Of the run.
        runs: The place, as a path or a URL.
        ledger: Where its ledger would be in it.
        job_parent: Where its jobs would have their folders.

    Raises:
        ConfigError: Names the place, and what to do.
    """
    check_looked_in("--runs", runs, may_be_missing=False)
    with reachable("--runs", runs):
        is_its_own = has_ledger(ledger) or bool(job_folders(job_parent))
    if not is_its_own:
        raise ConfigError(
            f"--runs {runs} has nothing of run {name}: no ledger and no job in {ledger.url}. Leave it "
            "out, and what the run's own settings say is taken."
        )
