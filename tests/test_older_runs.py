"""A run that an older version began is refused by what has changed since, and loses nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import HANGS_SECONDS, REPO, TINY_RUN, environment, launch

AS_BEFORE = """
import runpy, sys
from instruct_core import config

config.PACKING = "best fit, order drawn"
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_run_packed_in_another_way_is_refused_and_keeps_its_steps(
    shard_set: Path, tmp_path: Path
) -> None:
    command = [
        f"--shards={shard_set}", "--run=old", "--cluster=debug", "--gpus=1", *TINY_RUN,
    ]  # fmt: skip
    subprocess.run(
        [
            sys.executable, "-c", AS_BEFORE, str(REPO / "launch/finetune.py"), *command,
            "--max-steps=5",
        ],
        cwd=tmp_path, env=environment(), check=True, timeout=HANGS_SECONDS,
    )  # fmt: skip
    run = tmp_path / "checkpoints_instruct" / "old"
    steps = sorted(path.name for path in run.iterdir())

    again = launch("finetune", *command, "--max-steps=10", cwd=tmp_path)

    assert again.returncode == 2
    assert (
        "Run old has a checkpoint at step 5 that was made with packing best fit, order drawn, not "
        "best fit, order of its own. Begin another --run."
    ) in again.stderr
    assert sorted(path.name for path in run.iterdir()) == steps
