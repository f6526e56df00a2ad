"""
    python -m bench.comeback

Seconds from the kill of a rank to the end of the next step of the run, on a private Slurm: where the
ranks begin anew on the nodes that they have, and where the job is requeued because a node has failed
twice. Each repeat is one run of the tiny model, two ranks on two nodes, hit twice. The queue is empty,
and this Slurm starts a requeued job after six seconds (AuthInfo=cred_expire=5; 121 by default). Needs
root and Slurm's daemons.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

from bench.common import REPEATS, machine, parser
from tests.conftest import wait_for
from tests.slurm.conftest import Run, boot


def seconds_to_next_step(run: Run, starts: int) -> float:
    """Kill a rank after its next save, and wait until the run has made another step."""
    saved = len(run.events("saved"))
    wait_for(lambda: len(run.events("saved")) > saved, "a save")
    os.kill(run.pids()[1], signal.SIGKILL)
    began = time.monotonic()
    run.wait_for_start(starts + 1)
    step = int(str(run.events("resumed")[-1]["step"]))
    wait_for(lambda: _reached(run) > step, "a step")
    return time.monotonic() - began


def _reached(run: Run) -> int:
    """Return how far the newest start has come, by what it has last written down."""
    paths = sorted((run.folder / "job").glob("*/progress-*.json"))
    return json.loads(paths[-1].read_text(encoding="utf-8")).get("global_step") or 0 if paths else 0


def main() -> None:
    parser(__doc__).parse_args()
    inside, requeued = [], []
    with boot(num_nodes=4) as cluster, tempfile.TemporaryDirectory() as place:
        for repeat in range(REPEATS):
            run = Run(
                cluster, Path(place), Path(place) / "shards", "--gpus=1", "--max-steps=400",
                name=f"r{repeat}",
            )  # fmt: skip
            if not repeat:
                words = ("--source=builtin", "--out=shards", "--limit-rows=100", "--cluster=local")
                assert run.launch("preprocess", *words).returncode == 0
            run.submit()
            run.wait_for_start(1)
            inside.append(seconds_to_next_step(run, 1))
            requeued.append(seconds_to_next_step(run, 2))
            assert cluster.job(run.job_id)["Restarts"] == "1"
            cluster.run("scancel", run.job_id)
            run.wait_for_end("CANCELLED")
    for name, seconds in (("on the nodes it has", inside), ("requeued", requeued)):
        line = {
            "bench": "comeback", "contender": name, "seconds": statistics.median(seconds),
            "all": [round(each, 1) for each in seconds], "machine": machine(),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
