"""
Runs whose names begin alike, side by side: what they differ in, and what came of each.

    show_results("lr", "checkpoints_instruct", as_json=False)     # of lr-learning-rate-1e-5, lr-...
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from rich.table import Table

from instruct_core.config import to_json
from instruct_core.errors import MissingError
from launch.cluster.slurm import Controller
from launch.console.display import show_table
from launch.console.lines import say, say_whole
from launch.runs.commands import run_command
from launch.runs.difference import PLACES, results_of, shown
from launch.runs.document import json_of
from launch.runs.places import absolute
from launch.runs.run import Run, runs_in
from launch.runs.status import RunStatus

SCHEMA = 1
RESULTS = ("state", "step", "best step", "best val loss")


class _Row(NamedTuple):
    run: Run
    settings: dict[str, Any]  # that differ from run to run
    results: dict[str, Any]

    @property
    def loss(self) -> float:
        """The least validation loss; infinite before the first evaluation."""
        found = self.results["best val loss"]
        return math.inf if found is None else float(found)


def show_results(name: str, checkpoints: str, as_json: bool) -> None:
    """
    Print the runs of a sweep, the one with the least validation loss first.

    Args:
        name: What their names begin with, before a dash.
        checkpoints: Where runs keep their checkpoints.
        as_json: Print one document.

    Raises:
        MissingError: There is none.
    """
    runs = [run for run in runs_in(checkpoints) if run.name.startswith(f"{name}-")]
    if not runs:
        raise MissingError(
            f"Sweep {name} is not there: no run in {absolute(checkpoints)} has a name that begins with "
            f"{name}-. Begin one: python launch/sweep.py {name} --over FLAG=VALUE,VALUE"
        )
    rows = sorted(_rows(runs), key=lambda row: (row.loss, row.run.name))
    if as_json:
        listed = [
            {"run": row.run.name, "settings": row.settings, "results": row.results} for row in rows
        ]
        say_whole(json_of({"schema": SCHEMA, "sweep": name, "runs": listed}))
        return
    settings = [key.replace("_", "-") for key in rows[0].settings]
    table = Table("run", *settings, *RESULTS, box=None)
    for row in rows:
        values = [*row.settings.values(), *(row.results[key] for key in RESULTS[:-1])]
        loss = f"{row.loss:.4f}" if row.loss < math.inf else ""
        table.add_row(row.run.name, *map(shown, values), loss)
    show_table(table)
    if rows[0].loss < math.inf:
        say(f"Best so far: {run_command(rows[0].run.store, 'chat', '--step', 'best')}")


def _rows(runs: list[Run]) -> list[_Row]:
    controller = Controller(for_all=True)
    configs = [to_json(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config if key not in PLACES)
    differing = [key for key in keys if any(c.get(key) != configs[0].get(key) for c in configs)]
    return [
        _Row(
            run,
            {key: config.get(key) for key in differing},
            results_of(RunStatus.of(run, controller)),
        )
        for run, config in zip(runs, configs, strict=True)
    ]
