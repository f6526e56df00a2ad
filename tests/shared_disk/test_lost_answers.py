"""
A request that is done though its answer is lost: whose is what is found there?

One answer is lost at each operation in turn that gives or takes a name, and the caller is told EIO.
A link shows in the link count, a renamed file keeps its inode, a claim has bytes like nobody else's, a
step's folder without our manifest goes, and a folder that nobody knows the maker of is left alone.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from instruct_core.checkpoints.steps import committed_steps, damage_of, steps_of
from instruct_core.storage import patience
from instruct_core.storage.store import Store
from launch.cluster.frozen_code import CODE, freeze_code
from launch.cluster.job_folder import job_folders, new_job_folder
from launch.cluster.lock import RunLock, holder_of
from launch.cluster.slurm import SlurmJob
from tests.instruct_core.checkpoints.test_crash import begin, make_two, save
from tests.shared_disk.faults import NAMES, Fault
from tests.shared_disk.mount import SharedDisk, needs_fuse
from tests.shared_disk.test_store import load

pytestmark = needs_fuse


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.001)


def at_each_name(disk: SharedDisk) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield a fresh folder and what plans a lost answer in it, until none is lost any more."""
    for number in itertools.count():
        folder = disk.path / f"{len(list(disk.path.iterdir())):04d}"
        folder.mkdir()
        before = disk.counts().get("lost", {}).get("faults", 0)
        pattern = f"/{folder.name}/*"
        faults = [Fault("lost", NAMES, pattern, skips=number, times=1)]
        yield folder, lambda faults=faults: disk.plan(faults)  # type: ignore[misc]
        disk.heal()
        if disk.counts().get("lost", {}).get("faults", 0) == before:
            assert number > 1, "nothing was lost at all"
            return


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def test_claim_is_ours_whatever_answer_is_lost(disk: SharedDisk) -> None:
    for folder, lose in at_each_name(disk):
        store = Store(folder)
        lose()

        assert store.claim("attempts/0000.json", b"mine")
        disk.heal()

        assert not store.claim("attempts/0000.json", b"another's")
        assert store.read("attempts/0000.json") == b"mine"
        assert names_in(folder) == ["0000.json"]


def test_claim_of_another_stays_whatever_answer_is_lost(disk: SharedDisk) -> None:
    for folder, lose in at_each_name(disk):
        store = Store(folder)
        assert store.claim("claim", b"another's")
        lose()

        assert not store.claim("claim", b"mine")

        assert store.read("claim") == b"another's"
        assert names_in(folder) == ["claim"]


def test_file_is_written_whole_whatever_answer_is_lost(disk: SharedDisk) -> None:
    for folder, lose in at_each_name(disk):
        store = Store(folder)
        lose()

        store.put("new", [memoryview(b"first")])
        store.replace("again", b"second")
        store.replace("again", b"third")

        with pytest.raises(FileExistsError):
            store.put("new", [memoryview(b"other")])
        assert (store.read("new"), store.read("again")) == (b"first", b"third")
        assert names_in(folder) == ["again", "new"]


def test_folder_is_moved_and_removed_whatever_answer_is_lost(disk: SharedDisk) -> None:
    for folder, lose in at_each_name(disk):
        store = Store(folder)
        for name in ("a/1", "a/2", "b"):
            store.put(name, [memoryview(name.encode())])
        lose()

        store.move("a", "c/moved")
        store.remove("c/moved/1")
        store.remove("b")

        assert names_in(folder) == ["2"]
        store.remove("c")
        assert names_in(folder) == []
        with pytest.raises(FileNotFoundError):
            store.move("a", "d")


def test_rename_that_took_another_file_away_is_told(disk: SharedDisk) -> None:
    """The source is gone and there is a target, which is somebody else's."""
    store = Store(disk.path / "renamed")
    store.put("theirs", [memoryview(b"theirs")])

    with pytest.raises(FileNotFoundError):
        store.move("mine", "theirs")

    assert store.read("theirs") == b"theirs"


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    make_two(str(run))
    return run


def test_save_is_whole_or_is_made_again_whatever_answer_is_lost(
    disk: SharedDisk, two_steps: Path
) -> None:
    for folder, lose in at_each_name(disk):
        shutil.copytree(two_steps, disk.folder / folder.name / "run")
        store = Store(folder / "run")
        checkpoints = begin(store.url)
        lose()

        with contextlib.suppress(OSError):
            save(checkpoints, 3)
        disk.heal()
        save(checkpoints, 3)  # nothing is done where it was committed

        assert committed_steps(store)[-1] == 3
        assert [damage_of(store, step) for step in committed_steps(store)] in (["", ""], [""] * 3)
        save(checkpoints, 4)
        assert committed_steps(store) == [3, 4]
        assert all(steps_of(store).values())
        assert not [name for name in store.names() if name.startswith(("left", "damaged"))]


def test_first_save_is_remembered_whatever_answer_is_lost(disk: SharedDisk) -> None:
    """A run that has saved never starts over by itself, also where its commit was not told."""
    for folder, lose in at_each_name(disk):
        store = Store(folder / "run")
        checkpoints = begin(store.url)
        lose()

        for _ in range(2):
            with contextlib.suppress(OSError):
                save(checkpoints, 1)

        assert committed_steps(store) == [1]
        assert store.exists("committed.json")


def test_attempt_begins_at_the_newest_step_whatever_answer_is_lost(
    disk: SharedDisk, two_steps: Path
) -> None:
    """A removal that was killed had taken that step away: it is put back first."""
    for folder, lose in at_each_name(disk):
        shutil.copytree(two_steps, disk.folder / folder.name / "run")
        run = folder / "run"
        (run / "step-00000002").rename(run / "left-step-00000002-attempt-0000")
        lose()

        step = 0
        while not step:
            with contextlib.suppress(OSError):
                _, step = load(str(run), at_least=2)

        assert step == 2


def test_job_folder_of_a_launch_is_its_own_whatever_answer_is_lost(disk: SharedDisk) -> None:
    for folder, lose in at_each_name(disk):
        other = new_job_folder(folder / "job")
        (other / "theirs").touch()
        lose()

        mine = new_job_folder(folder / "job")

        assert mine == job_folders(folder / "job")[-1]
        assert list(mine.iterdir()) == []
        assert names_in(folder / "job") == ["theirs"]


def test_lock_and_note_of_a_launch_are_whole_whatever_answer_is_lost(disk: SharedDisk) -> None:
    for folder, lose in at_each_name(disk):
        lose()

        lock = RunLock(folder / "run" / "lock")
        assert lock.acquire()
        lock.name_job(1, folder, "ledger")
        SlurmJob(folder, "ledger").write_note(folder / "run" / "slurm.json")

        holder, job = (
            holder_of(folder / "run" / "lock"),
            SlurmJob.found(folder / "run" / "slurm.json"),
        )
        assert holder is not None
        assert holder.pid == 1
        assert job is not None
        assert job.ledger == "ledger"
        lock.close()


def test_code_of_a_job_is_copied_whatever_is_refused_now_and_then(disk: SharedDisk) -> None:
    folder = disk.path / "code"
    before = sum(kind["faults"] for kind in disk.counts().values())
    disk.plan([
        Fault(kind, NAMES, f"/code/{CODE}/*", after=97 * number, times=1)
        for number, kind in enumerate(["EIO", "lost", "ESTALE", "lost"])
    ])  # fmt: skip

    freeze_code(folder)

    root = Path(__file__).resolve().parents[2]
    for package in ("jobs", "instruct_core"):
        for source in (root / package).rglob("*.py"):
            assert (folder / CODE / source.relative_to(root)).read_bytes() == source.read_bytes()
    assert sum(kind["faults"] for kind in disk.counts().values()) == before + 4
