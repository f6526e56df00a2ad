"""
    python -m bench.goodput --warnings 3 --every 60

Where the hours of a run go that is warned every minute, on a private Slurm: two ranks of the tiny model
on two nodes, which save and come back each time, and are stopped at the end. The receipt is that of
`launch/status.py`; `seconds_by_our_clock` is the time from its submission to its end as seen from here.
Needs root and Slurm's daemons.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import machine, parser
from tests.conftest import wait_for
from tests.slurm.conftest import Run, boot


def warned_run(run: Run, warnings: int, every_seconds: float) -> tuple[dict[str, Any], float]:
    """Warn a run every so many seconds, stop it, and return its document and the time that it took."""
    submitted_at = time.time()
    run.submit()
    for number in range(warnings):
        run.wait_for_start(number + 1)
        time.sleep(max(0.0, submitted_at + every_seconds * (number + 1) - time.time()))
        run.cluster.run("scancel", "--signal=USR2", run.job_id)
        wait_for(lambda: len(run.events("requeued")) > number, "the requeue")  # noqa: B023
    run.wait_for_start(warnings + 1)
    time.sleep(max(0.0, submitted_at + every_seconds * (warnings + 1) - time.time()))
    run.cluster.run("scancel", run.job_id)
    stopped = wait_for(lambda: run.events("stopped"), "the end")
    told = run.launch("status", run.name, "--json")
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout), float(stopped[-1]["utc_seconds"]) - submitted_at


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--warnings", type=int, default=3)
    flags.add_argument("--every", type=float, default=60.0, help="seconds between warnings")
    typed = flags.parse_args()
    with boot(num_nodes=2) as cluster, tempfile.TemporaryDirectory() as place:
        run = Run(
            cluster, Path(place), Path(place) / "shards", "--gpus=1", "--max-steps=1000000",
            "--save-every=1000",
        )  # fmt: skip
        words = ("--source=builtin", "--out=shards", "--limit-rows=100", "--cluster=local")
        assert run.launch("preprocess", *words).returncode == 0
        document, seconds = warned_run(run, typed.warnings, typed.every)
    receipt = document["receipt"]
    steps_lost = sum(attempt["steps_lost"] or 0 for attempt in document["attempts"])
    line = {"bench": "goodput", "warnings": typed.warnings, "every_seconds": typed.every}
    line |= {"steps": document["step"], "steps_redone": steps_lost}
    line |= {"seconds_redone": receipt["seconds"].get("redone", 0.0), **receipt}
    # Against the ideal: a start that takes no time, once Slurm has given the nodes.
    held = receipt["wall_seconds"] - receipt["seconds"].get("queued", 0.0)
    line |= {"goodput_of_time_with_nodes": round(receipt["seconds"]["step"] / held, 4)}
    line |= {"seconds_by_our_clock": round(seconds, 1), "machine": machine()}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
