"""
    python -m bench.status --runs 1000

Seconds of `launch/status.py`, whole command, and of a core, with many runs of three attempts and three
checkpoints each, a third of them queued, beside a Slurm whose controller answers in `--answer-seconds`;
and with the controller away.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.common import REPEATS, machine, parser
from instruct_core.checkpoints.manifest import FileEntry, Manifest, Progress, state_name
from instruct_core.checkpoints.steps import step_name
from instruct_core.config import PRESETS, TrainConfig, to_json
from instruct_core.events import Saved
from instruct_core.storage.documents import dump_document, seal
from instruct_core.storage.store import Store
from jobs.events import Requeued, Resumed, Started
from jobs.ledger import Ledger

REPO = Path(__file__).resolve().parent.parent
JOB = (
    "JobId={job} JobName=x JobState=PENDING Reason=Resources Restarts=0 Requeue=1 "
    "StartTime=Unknown EndTime=Unknown NodeList=(null) ExcNodeList=(null)"
)
STEPS = (100, 200, 300)


def make_run(project: Path, number: int) -> None:
    """Leave what a run of three attempts leaves, and queue every third one."""
    name, checkpoints = f"run-{number:04d}", project / "checkpoints_instruct"
    config = TrainConfig(
        name, "s", str(checkpoints), str(project / "runs_instruct"), "random", "tiny", "f", max_steps=400
    )  # fmt: skip
    store, runs = Store(checkpoints / name), Store(project / "runs_instruct" / name)
    store.replace("run.json", dump_document({"format": 1, "config": to_json(config)}))
    for attempt, step in enumerate(STEPS):
        folder = store / step_name(step)
        files = [FileEntry(file, 1, "0" * 32) for file in ("model.safetensors", state_name(0, 1))]
        for entry in files:
            folder.replace(entry.file, b"x")
        progress = Progress(step, step, step)
        manifest = Manifest(
            global_step=step, attempt=attempt, world_size=1, saved_at=time.time(),
            model=PRESETS["tiny"], progress=progress, files=files,
        )  # fmt: skip
        folder.replace("manifest.json", seal(manifest.document))
        ledger = Ledger(runs, attempt, lambda: {"step": 60.0})
        ledger.note(Started(attempt, str(number), 1, "cpu", [1], ["node1"]))
        ledger.note(Resumed(step - 100))
        ledger.note(Saved(step=step, seconds=1.0))
        ledger.note(Requeued(step))
    job = runs.local_path("job/0000")
    job.mkdir(parents=True)
    state = {
        "state": "running",
        "attempt": 2,
        "global_step": 300,
        "loss": 3.0,
        "tokens_per_second": 9e3,
    }
    (job / "progress-0000000001-0002.json").write_text(json.dumps(state), encoding="utf-8")
    if number % 3 == 0:
        (job / "job_ids").write_text(f"{number + 1}\n", encoding="utf-8")
        note = {"folder": str(job), "ledger": runs.url}
        store.local_path("slurm.json").write_text(json.dumps(note), encoding="utf-8")


def measure(project: Path, runs: int) -> tuple[float, float]:
    """Return seconds of the command, and of a core; the least of some tries."""
    env = os.environ | {"PATH": f"{project}/bin:{os.environ['PATH']}"}
    command = [sys.executable, str(REPO / "launch/status.py")]
    tries = []
    for _ in range(REPEATS):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, check=True)
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.stdout.count(b"run-") >= runs, done.stdout
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        tries.append((seconds, used))
    return min(tries)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--runs", type=int, default=1000)
    flags.add_argument("--answer-seconds", type=float, default=0.2)
    typed = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        for number in range(typed.runs):
            make_run(project, number)
        jobs = "\n".join(JOB.format(job=n + 1) for n in range(0, typed.runs, 3))
        (project / "jobs").write_text(f"{jobs}\n", encoding="utf-8")
        (project / "bin").mkdir()
        scontrol = project / "bin/scontrol"
        answer = f"sleep {typed.answer_seconds}; cat {project}/jobs"
        refusal = "echo 'Unable to contact slurm controller' >&2; exit 1"
        for state, script in (("answers", answer), ("away", refusal)):
            scontrol.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            scontrol.chmod(0o755)
            seconds, used = measure(project, typed.runs)
            line = {"bench": "status", "runs": typed.runs, "controller": state}
            line |= {"seconds": round(seconds, 2), "core_seconds": round(used, 2)}
            print(json.dumps(line | {"repeats": REPEATS, "machine": machine()}), flush=True)


if __name__ == "__main__":
    main()
