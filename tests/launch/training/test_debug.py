"""`--cluster debug`: a job in the launcher's own process, where a debugger stops it."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

from instruct_core.train.trainer import Trainer
from tests.conftest import REPO, TINY_RUN, environment, events_of, launch


def test_debugger_stops_in_a_job_and_it_goes_on(shard_set: Path, tmp_path: Path) -> None:
    file, line = inspect.getsourcefile(Trainer), inspect.getsourcelines(Trainer._begin_step)[1]
    program = [str(REPO / "launch" / "finetune.py"), f"--shards={shard_set}", "--run=r", *TINY_RUN]
    script = f"tbreak {file}:{line + 10}\nc\nwhere\nc\nq\n"

    done = subprocess.run(
        [sys.executable, "-m", "pdb", *program, "--max-steps=2", "--cluster=debug"],
        cwd=tmp_path, env=environment(), input=script, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "_begin_step" in done.stdout, done.stdout + done.stderr
    assert "jobs/finetune.py" in done.stdout  # on the way there: the job itself
    assert events_of(tmp_path / "runs_instruct" / "r")[-1]["event"] == "finished"


def test_tasks_of_an_array_run_in_the_launcher(
    rows_file: Path, shard_set: Path, tmp_path: Path
) -> None:
    done = launch(
        "preprocess", f"--source={rows_file}", "--out=small", "--num-tasks=2", "--cluster=debug",
        cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    for path in shard_set.glob("train/*.safetensors"):
        assert (tmp_path / "small" / "train" / path.name).read_bytes() == path.read_bytes()


def test_one_debugger_has_one_rank(shard_set: Path, tmp_path: Path) -> None:
    done = launch("finetune", f"--shards={shard_set}", "--gpus=2", "--cluster=debug", cwd=tmp_path)

    assert done.returncode == 2
    assert "--gpus must be 1 with --cluster debug, got 2" in done.stderr
    assert not list(tmp_path.iterdir())
