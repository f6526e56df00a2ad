"""Fixtures on a real Slurm: clusters, and runs that are hit on them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import (
    HANGS_SECONDS,
    LAUNCHERS,
    TINY_RUN,
    events_of,
    hashes_of,
    made_once,
    samples_of,
    wait_for,
    whole_lines,
)
from tests.slurm.cluster import SlurmCluster
from tests.slurm.configuration import ClusterSettings
from tests.tiny_runs import stopped

STEPS = 30
ONE_RANK = ("--nodes=1", "--gpus=1")  # where it is the queue that is looked at
NEEDED = ("slurmctld", "slurmd", "sbatch", "unshare", "nsenter")
Cluster = Callable[..., SlurmCluster]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip where there is no Slurm to boot, and say what is missing."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if os.geteuid() != 0:
        missing = ["root"]
    if missing:
        reason = (
            f"needs {', '.join(missing)}: as root, apt-get install -y --no-install-recommends "
            "slurm-client slurmctld slurmd munge slurm-wlm-basic-plugins iproute2"
        )
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


def boot(**settings: object) -> SlurmCluster:
    """Return a cluster of a test's own; enter it to start it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # names of sockets must be short
    return SlurmCluster(folder, ClusterSettings(**settings))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """Four nodes without accounting: the poorest cluster there is."""
    with boot() as booted:
        yield booted


@pytest.fixture
def other_cluster() -> Iterator[Cluster]:
    """Boots a cluster with settings of a test's own, for as long as the test."""
    booted: list[SlurmCluster] = []

    def start(**settings: object) -> SlurmCluster:
        booted.append(boot(**settings).__enter__())
        return booted[-1]

    yield start
    for one in booted:
        one.down()


class Run:
    """
    One run of the tiny model on a cluster, as a person has it.

    Args:
        cluster: Where.
        cwd: The person's folder.
        shards: The shard set.
        flags: More flags of launch/finetune.py.
        name: Of the run.
        code: The project whose launchers are used, if not this one.
    """

    def __init__(
        self,
        cluster: SlurmCluster,
        cwd: Path,
        shards: Path,
        *flags: str,
        name: str = "r",
        code: Path | None = None,
    ) -> None:
        self.cluster, self.cwd, self.name = cluster, cwd, name
        cwd.mkdir(exist_ok=True, parents=True)
        self._code = code
        self.arguments = [
            f"--shards={shards}", "--nodes=2", "--gpus=2", "--cpus-per-task=1", "--time=60",
            f"--max-steps={STEPS}", f"--run={name}", "--record-samples", "--precision=fp32",
            "--dropout=0.1", *TINY_RUN, "--seq-len=32", "--tokens-per-step=128",
            "--micro-batch-size=1", "--eval-every=1000", *flags,
        ]  # fmt: skip

    def launch(
        self, verb: str, *arguments: str, timeout_seconds: float = HANGS_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a launcher on the cluster to its end."""
        env = self.cluster.env | {"COLUMNS": "200"}
        env["INSTRUCT_BAD_NODES"] = str(self.cwd / "bad_nodes")  # nobody else's
        if self._code is None:
            return LAUNCHERS.run(verb, arguments, self.cwd, env, timeout_seconds)
        env["PYTHONPATH"] = str(self._code)
        return subprocess.run(
            [sys.executable, str(self._code / "launch" / f"{verb}.py"), *arguments],
            cwd=self.cwd, env=env, capture_output=True, text=True, timeout=timeout_seconds,
            check=False,
        )  # fmt: skip

    def submit(self, *more: str) -> str:
        """Submit it, for the first time or again; return what the launcher said."""
        done = self.launch("finetune", *self.arguments, *more)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    @property
    def folder(self) -> Path:
        return self.cwd / "runs_instruct" / self.name

    @property
    def checkpoints(self) -> Path:
        return self.cwd / "checkpoints_instruct" / self.name

    @property
    def job_ids(self) -> list[str]:
        folders = sorted((self.folder / "job").glob("[0-9]*"))
        return [i for folder in folders for i in (folder / "job_ids").read_text().split()]

    @property
    def job_id(self) -> str:
        return self.job_ids[-1]

    def state(self) -> str:
        return self.cluster.job(self.job_id).get("JobState", "")

    def events(self, name: str) -> list[dict[str, object]]:
        return [event for event in events_of(self.folder) if event["event"] == name]

    def pids(self) -> list[int]:
        """Return the ranks' processes of the newest attempt, rank 0 first, by their numbers here."""
        started = self.events("started")[-1]
        ranks: Any = zip(started["hosts"], started["pids"], strict=True)  # type: ignore[call-overload]
        return [self.cluster.pid_here(host, pid) for host, pid in ranks]

    def crashed_on(self) -> list[str]:
        """Return the nodes that crashes were put down to."""
        return [str(event["node"]) for event in self.events("crashed")]

    def reach(self, step: int) -> None:
        """Wait until the newest attempt trains at a step; it must still run then."""
        wait_for(lambda: self.step >= step, f"step {step}")
        assert not self.events("finished"), "the run ended before it was hit"

    @contextmanager
    def held_at(self, step: int) -> Iterator[None]:
        """Wait until the newest attempt trains at a step, and hold it there while it is hit."""
        self.reach(step)
        with self.held():
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the newest attempt's ranks as soon as they have started."""
        wait_for(lambda: self.events("started"), "the ranks")
        with stopped(self.pids()):
            yield

    @property
    def step(self) -> int:
        """At which the newest attempt trains; -1 before it does."""
        resumed = self.events("resumed")
        if not resumed:
            return -1
        path = self.folder / f"samples-{resumed[-1]['attempt']:04d}-00000.jsonl"
        lines = list(whole_lines(path)) if path.exists() else []
        return lines[-1]["step"] - 1 if lines else -1  # it reads one step ahead

    def wait_for_start(self, number: int) -> None:
        """Wait until the run has been started so many times."""
        wait_for(lambda: len(self.events("resumed")) >= number, f"start {number}")

    def wait_for_end(self, state: str = "COMPLETED") -> None:
        """Wait until Slurm says that the job has ended, and how."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        wait_for(lambda: self.state() in ended, "the end of the job")
        assert self.state() == state, self.log()[-3000:]

    def log(self) -> str:
        paths = sorted((self.folder / "job").glob("*/*_0_log.out"))
        return "\n".join(path.read_text(errors="replace") for path in paths)

    def hashes(self, step: int = STEPS) -> dict[str, str]:
        return hashes_of(self.checkpoints, step)

    def samples(self) -> dict[int, set[int]]:
        return samples_of(self.folder)


def unhit(cluster: SlurmCluster, cwd: Path, shards: Path, *flags: str) -> Run:
    """Return a run that nobody hit, made by one worker for all."""
    run = Run(cluster, cwd, shards, *flags)

    def make(_: Path) -> None:
        run.submit()
        run.wait_for_end()
        assert cluster.job(run.job_id)["Restarts"] == "0"

    made_once(cwd, make)
    assert len(run.events("started")) == 1
    return run


@pytest.fixture(scope="session")
def undisturbed(cluster: SlurmCluster, folder_of_all: Path, light_shards: Path) -> Run:
    """Two nodes of two ranks, and nobody hit it."""
    return unhit(cluster, folder_of_all / "undisturbed", light_shards)


@pytest.fixture(scope="session")
def undisturbed_pair(cluster: SlurmCluster, folder_of_all: Path, light_shards: Path) -> Run:
    """Two nodes of one rank, and nobody hit it."""
    return unhit(cluster, folder_of_all / "undisturbed-pair", light_shards, "--gpus=1")


@pytest.fixture
def pair(cluster: SlurmCluster, tmp_path: Path, light_shards: Path) -> Run:
    """Two nodes of one rank that a test will hit; not yet submitted."""
    return Run(cluster, tmp_path, light_shards, "--gpus=1")


def assert_ended_as_if_undisturbed(run: Run, undisturbed: Run) -> None:
    """Check the final weights, optimizer and RNG bit for bit, and the samples that were read."""
    assert run.events("finished"), run.log()[-3000:]
    assert run.hashes() == undisturbed.hashes()
    assert run.samples() == undisturbed.samples()


@pytest.fixture
def desk(cluster: SlurmCluster, tmp_path: Path, light_shards: Path) -> Run:
    """A person's folder on the cluster; its launchers are what a test uses."""
    return Run(cluster, tmp_path, light_shards)
