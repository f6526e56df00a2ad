"""
The drill on this machine: it proves a run that keeps the promises, and finds one that does not.

Bugs are planted in a copy of the code, each where a promise would be broken, and the drill is typed
there as a person would, who names one of them in the environment.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

import pytest

from tests.conftest import (
    HANGS_SECONDS,
    REPO,
    environment,
    events_of,
    launch,
    rank_pids,
    start,
    wait_for,
)
from tests.warm_launchers import Launcher
from tests.warm_processes import ForkServer

ON_THIS_MACHINE = "--cluster=local"


def test_drill_is_equal_names_its_faults_and_leaves_nothing(tmp_path: Path) -> None:
    faults = "--faults=usr1@2,kill@4,stop@6,term@8,save@10"

    result = launch("drill", ON_THIS_MACHINE, faults, "--steps=12", "--json", cwd=tmp_path)

    assert result.returncode == 0, result.stdout + result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["equal"]
    assert [(f["kind"], f["step"], f["came"]) for f in said["faults"]] == [
        ("usr1", 2, True), ("kill", 4, True), ("stop", 6, True), ("term", 8, True),
        ("save", 10, True),
    ]  # fmt: skip
    lost = {fault["kind"]: fault["steps_lost"] for fault in said["faults"]}
    assert [lost[kind] for kind in ("usr1", "stop", "term")] == [0, 0, 0]
    assert "Equal, bit for bit" in result.stdout
    assert "Talk to it" not in result.stdout  # of what is removed
    seconds = said["receipt"]["seconds"]
    assert sum(seconds.values()) == pytest.approx(said["receipt"]["wall_seconds"], rel=0.01)
    assert {"step", "redone", "stopped"} <= set(seconds)
    assert list(tmp_path.iterdir()) == []


def test_drill_of_a_model_in_parts_is_equal(tmp_path: Path) -> None:
    flags = ("--faults=usr2@3,kill@5,save@8,term@10", "--steps=12", "--shard=full", "--json")

    result = launch("drill", ON_THIS_MACHINE, *flags, cwd=tmp_path)

    assert result.returncode == 0, result.stdout + result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    assert (said["equal"], [fault["came"] for fault in said["faults"]]) == (True, [True] * 4)
    assert (
        result.stdout.count("with the model in 2 parts\n") == 3
    )  # undisturbed, hit, and after term


def test_one_rank_proves_nothing_of_a_model_in_parts(tmp_path: Path) -> None:
    result = launch("drill", ON_THIS_MACHINE, "--gpus=1", "--shard=full", cwd=tmp_path)

    assert (result.returncode, list(tmp_path.iterdir())) == (2, [])
    assert result.stderr.startswith("error: --shard full takes two ranks or more, got one: ")


def test_receipt_of_a_run_that_was_hit_names_every_second(tmp_path: Path) -> None:
    faults = "--faults=usr2@3,kill@7,term@9"
    flags = (faults, "--steps=12", "--gpus=1", "--keep")
    drill = launch("drill", ON_THIS_MACHINE, *flags, cwd=tmp_path)
    assert drill.returncode == 0, drill.stdout + drill.stderr
    place = next(tmp_path.glob("drill-*"))

    said = launch("status", "hit", f"--checkpoints={place}/checkpoints", "--json", cwd=tmp_path)

    document = json.loads(said.stdout)
    receipt, seconds = document["receipt"], document["receipt"]["seconds"]
    submitted_at = (place / "runs" / "hit" / "job" / "0000" / "code").stat().st_mtime
    ended_at = events_of(place / "runs" / "hit")[-1]["utc_seconds"]
    # Clocks of several processes, read one after the other: a busy machine may halt them in between.
    assert receipt["wall_seconds"] == pytest.approx(ended_at - submitted_at, rel=0.1)
    assert sum(seconds.values()) == pytest.approx(receipt["wall_seconds"], rel=0.01)
    assert receipt["goodput"] == pytest.approx(seconds["step"] / receipt["wall_seconds"], abs=1e-3)
    assert {"step", "redone", "imports", "load", "save", "stopped"} <= set(seconds)
    assert "unknown" not in seconds
    assert [loss["attempt"] for loss in receipt["lost"]] == [1]
    ends = [attempt["end"].partition(":")[0] for attempt in document["attempts"]]
    assert ends == ["requeued", "crashed", "stopped", "finished"]


def test_drill_that_is_ended_leaves_nothing(
    tmp_path: Path, shard_set: Path, killed_after_test: list[Launcher]
) -> None:
    words = (f"--shards={shard_set}", "--gpus=1", "--steps=2000", "--faults=kill@1900")
    drill = start("drill", ON_THIS_MACHINE, *words, cwd=tmp_path)
    killed_after_test.append(drill)
    rank = wait_for(
        lambda: [pid for run in tmp_path.glob("drill-*/runs/*") for pid in rank_pids(run)],
        "a rank that trains",
    )[0]

    drill.send_signal(signal.SIGTERM)
    drill.communicate(timeout=HANGS_SECONDS)

    assert drill.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert not Path(f"/proc/{rank}").exists()


def test_wrong_schedule_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    result = launch("drill", ON_THIS_MACHINE, "--faults=requeue@5", cwd=tmp_path)

    assert (result.returncode, result.stdout) == (2, "")
    assert "error: --faults requeue@5 needs Slurm" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--shards=nowhere", "Shards nowhere are not there or not finished"),
        ("--init=nowhere", "--init nowhere is not there"),
        ("--init=run:first", "--init run:first must be a place"),
        ("--model=nothing", "--model must be one of gpt2"),
        ("--nodes=2", "--nodes must be 1 on this machine, got 2"),
    ],
)
def test_run_that_cannot_be_begun_is_refused_before_anything_is_made(
    tmp_path: Path, word: str, said: str
) -> None:
    result = launch("drill", ON_THIS_MACHINE, word, cwd=tmp_path)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {said}")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_run_that_its_command_refuses_leaves_nothing(tmp_path: Path, light_shards: Path) -> None:
    words = (f"--shards={light_shards}", "--seq-len=100000000")

    result = launch("drill", ON_THIS_MACHINE, *words, cwd=tmp_path)

    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_demo_says_once_what_its_commands_refuse(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("")

    result = launch("demo", cwd=tmp_path)

    assert result.returncode == 2
    assert result.stderr.startswith("error: --out shards/builtin cannot be written")
    assert result.stderr.count("\n") == 1


class Bug(NamedTuple):
    """Code, what stands there instead, and what the drill says; HERE holds where the bug is wanted."""

    file: str
    good: str
    bad: str
    faults: str
    complaint: str
    gpus: int = 1


HERE = "(__import__('os').environ.get('PLANTED') == {name!r})"
WRITES_DATA_FIRST = """\
            written = together(self._group, lambda: list(self._put(folder, snapshot.step, images)))
            files = [FileEntry(*entry) for part in written for entry in part]
            self._hashed = Ours(snapshot.step, name, files)
            on_rank_0(self._group, lambda: self._commit(snapshot, folder, files))
"""
# The sizes that a commit looks at are those that the files will have.
WRITES_DATA_LAST = """\
            import xxhash
            data = [b"".join(image.views) for image in images]
            digests = [xxhash.xxh3_128(each).hexdigest() for each in data]
            entries = [(i.name, len(d), x) for i, d, x in zip(images, data, digests, strict=True)]
            written = together(self._group, lambda: entries)
            files = [FileEntry(*entry) for part in written for entry in part]
            self._hashed = Ours(snapshot.step, name, files)
            sizes, Store.sizes = Store.sizes, lambda *_: {entry.file: entry.bytes for entry in files}
            on_rank_0(self._group, lambda: self._commit(snapshot, folder, files))
            Store.sizes = sizes
            together(self._group, lambda: list(self._put(folder, snapshot.step, images)))
"""
BUGS = {
    "reader off by one after a resume": Bug(
        "instruct_core/train/trainer.py",
        "self.progress = loaded.manifest.progress",
        "self.progress = replace(loaded.manifest.progress, "
        "samples_seen=loaded.manifest.progress.samples_seen + HERE)",
        "usr2@4",
        "not equal: ",
    ),
    "moment of the optimizer not restored": Bug(
        "instruct_core/train/optimizer.py",
        "state[kind] = part_of(value, parameter)",
        'state[kind] = part_of(value, parameter) * (0 if HERE and kind == "exp_avg_sq" else 1)',
        "term@4",
        "not equal: ",
    ),
    "generator of rank 1 not restored": Bug(
        "instruct_core/train/trainer.py",
        "if loaded is None or loaded.rng is None:",
        "if loaded is None or loaded.rng is None or (HERE and ranks.rank() == 1):",
        "kill@6",
        "not equal: ",
        gpus=2,
    ),
    "requeue that starts over": Bug(
        "jobs/attempt.py",
        "            self._refuse_lost()\n",  # which would refuse what a bug before it starts over
        "            self._refuse_lost()\n        loaded = None if HERE else loaded\n",
        "usr2@4",
        "usr2@4 lost 4 steps",
    ),
    "manifest before its data": Bug(
        "instruct_core/checkpoints/writer.py",
        WRITES_DATA_FIRST,
        f"{' ' * 12}if HERE:\n{indent(WRITES_DATA_LAST, ' ' * 4)}"
        f"{' ' * 12}else:\n{indent(WRITES_DATA_FIRST, ' ' * 4)}",
        "save@6",
        "Checkpoint ",
    ),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ForkServer]]:
    """A project with all the bugs, and processes of it."""
    tree = tmp_path_factory.mktemp("planted") / "tree"
    for package in ("launch", "jobs", "instruct_core"):
        shutil.copytree(REPO / package, tree / package)
    for name, bug in BUGS.items():
        file = tree / bug.file
        assert file.read_text().count(bug.good) == 1, f"{bug.file} has another line now"
        bad = bug.bad.replace("HERE", HERE.format(name=name))
        file.write_text(file.read_text().replace(bug.good, bad))
    with ForkServer(tree, environment() | {"PYTHONPATH": str(tree)}) as server:
        yield tree, server


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(
    name: str, planted: tuple[Path, ForkServer], light_shards: Path, tmp_path: Path
) -> None:
    bug, (tree, server) = BUGS[name], planted
    words = [
        str(tree / "launch" / "drill.py"), ON_THIS_MACHINE, f"--shards={light_shards}", "--json",
        "--steps=8", f"--faults={bug.faults}", f"--gpus={bug.gpus}",
    ]  # fmt: skip
    drill = server.start(
        [sys.executable, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment() | {"PYTHONPATH": str(tree), "PLANTED": name}, encoding="utf-8",
    )  # fmt: skip

    out, errors = drill.communicate(HANGS_SECONDS)

    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert drill.returncode == 1, out + errors
    assert not said["equal"]
    assert any(problem.startswith(bug.complaint) for problem in said["problems"]), said["problems"]
    folder = next(tmp_path.iterdir())  # both runs stay, to be looked at
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"hit", "undisturbed"}
