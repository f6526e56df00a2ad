"""Each thing broken in turn: one line says so, the right one, with its fix; all well is all well."""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from instruct_core.storage.backend import Free
from launch.checkup import disk, doctor, environment
from launch.checkup.disk import check_job_folder
from launch.checkup.environment import Torch
from launch.checkup.finding import fails
from launch.cluster import lock
from launch.flags.doctor import Doctor
from tests.conftest import REPO, launch
from tests.conftest import environment as environment_of_a_launcher
from tests.launch.checkup.conftest import failed, limits
from tests.launch.test_errors import snapshot


def test_machine_where_all_is_well_has_no_red_line_and_nothing_is_left(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(desk)

    code = doctor.doctor(Doctor())

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert {line.split()[0] for line in lines[:-1]} == {"ok"}
    assert lines[-1] == f"All well: {len(lines) - 1} checks."
    assert snapshot(desk) == before
    assert sorted(path.name for path in desk.iterdir()) == ["shards"]


class Machine:
    """What a test breaks of a machine without Slurm."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch.setattr
        self.flags = Doctor()

    def torch_says(self, torch: Torch) -> None:
        self.patch(doctor, "ask_torch", lambda: torch)

    def disk_has(self, free: Free) -> None:
        self.patch(disk.Disk, "free", lambda _: free)

    def disk_refuses(self, what: str, number: int) -> None:
        def refuse(*_: object) -> bool:
            raise OSError(number, os.strerror(number))

        if what == "flock":
            fake = SimpleNamespace(flock=refuse, LOCK_EX=2, LOCK_NB=4, LOCK_SH=1)
            self.patch(lock, "fcntl", fake)
        else:
            self.patch(disk.Store, "try_out", refuse)

    def cannot_read_the_merges(self) -> None:
        self.patch(environment, "merges_path", lambda: Path("gone.bpe"))

    def has_no_data(self) -> None:
        Path("shards/mine/manifest.json").unlink()
        self.patch(environment, "find_spec", lambda _: None)


BROKEN: dict[str, tuple[str, str, Callable[[Machine], None]]] = {
    "old Python": (
        "python", platform.python_version(), lambda m: m.patch(environment, "OLDEST_PYTHON", (9, 9))
    ),
    "no data": ("data", "no shards here, and builtin lacks", Machine.has_no_data),
    "torch sees fewer GPUs than the driver": (
        "torch", "torch 2.13.0+cpu, for CPUs only, can use 0 of the 4 GPUs",
        lambda m: m.torch_says(Torch("2.13.0+cpu", None, 0)),
    ),
    "torch does not load": (
        "torch", "torch cannot be imported: OSError: libcudart.so",
        lambda m: m.torch_says(Torch("", None, 0, "OSError: libcudart.so")),
    ),
    "merges are gone": ("tokenizer", "gone.bpe", Machine.cannot_read_the_merges),
    "few open files": (
        "open files", "ulimit -Hn is 223, enough for 3 ranks, and a node has 4",
        lambda m: m.patch(environment, "resource", limits(64, 223)),
    ),
    "full disk": (
        "room", "1 MB free in", lambda m: m.disk_has(Free(10**6, 10**6))
    ),
    "no inodes": ("room", "0 files can still be made", lambda m: m.disk_has(Free(10**12, 0))),
    "few inodes": ("room", "12 files can still be made", lambda m: m.disk_has(Free(10**12, 12))),
    "no hard links": (
        "links", "refuses a hard link: Operation not", lambda m: m.disk_refuses("links", errno.EPERM)
    ),
    "two writers of one file": (
        "links", "lets two writers", lambda m: m.patch(disk.Store, "try_out", lambda _: False)
    ),
    "no flock": (
        "flock", "has no flock", lambda m: m.disk_refuses("flock", errno.EOPNOTSUPP)
    ),
    "flock refused": (
        "flock", "refuses flock: Operation not", lambda m: m.disk_refuses("flock", errno.EPERM)
    ),
    "flock of two": (
        "flock", "gives one lock to two",
        lambda m: m.patch(lock.RunLock, "is_held", staticmethod(lambda _: False)),
    ),
    "clocks apart": (
        "clock", "are 3,6", lambda m: m.patch(disk, "utc_seconds", lambda: time.time() + 3600)
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_on_a_machine_is_the_one_red_line(
    what: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, found, breaks = BROKEN[what]
    machine = Machine(monkeypatch)
    breaks(machine)

    findings = doctor.look(machine.flags).findings

    [red] = failed(findings)
    assert red.name == name
    assert found in red.found
    assert red.fix
    assert doctor.doctor(machine.flags) == 1
    [line] = [li for li in capsys.readouterr().out.splitlines() if li.startswith("would fail ")]
    assert red.fix in line
    assert doctor.doctor(replace(machine.flags, json=True)) == 1
    document = json.loads(capsys.readouterr().out)
    assert not document["ok"]
    assert [c["name"] for c in document["checks"] if c["state"] == "would fail"] == [name]
    assert sorted(path.name for path in desk.iterdir()) == ["shards"]


def test_what_is_said_of_an_old_python_is_that_a_newer_one_will_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "OLDEST_PYTHON", (9, 9))

    assert environment.check_python().fix == "Activate an environment with Python 9.9 or newer"


def test_folder_that_cannot_be_written_is_one_red_line(desk: Path) -> None:
    (desk / "file").write_text("")  # root may write into any folder, and nobody into a file

    [red] = failed(doctor.look(Doctor(checkpoints="file/checkpoints")).findings)

    assert (red.name, red.fix) == ("checkpoints", "Give --checkpoints another place")
    assert "file: Not a directory" in red.found


def test_place_may_be_a_url_of_a_folder(desk: Path) -> None:
    findings = doctor.look(Doctor(checkpoints=f"file://{desk}/gone/c")).findings

    assert failed(findings) == []
    assert not (desk / "gone").exists()


def test_folder_of_this_place_that_cannot_be_written_is_one_red_line(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc/self/task")  # where root cannot write either

    [red] = failed(doctor.look(Doctor()).findings)

    assert red.name == "checkpoints"


def test_job_folder_that_everybody_may_write_is_one_red_line(desk: Path) -> None:
    before = os.umask(0)
    try:
        [red] = failed(doctor.look(Doctor()).findings)
    finally:
        os.umask(before)

    assert (red.name, red.fix) == ("job folder", "Type first: umask 022")


@pytest.mark.parametrize(
    ("free", "found"), [(Free(10**6, 10**6), "1 MB free"), (Free(10**12, 0), "no file can be made")]
)
def test_disk_of_the_job_folders_without_room_is_one_red_line(
    free: Free, found: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk.Disk, "free", lambda _: free)

    finding = check_job_folder(desk, other=Path("/proc"))

    assert (finding.name, finding.state) == ("job folder", "would fail")
    assert found in finding.found
    assert finding.fix.startswith("Make room for 50 MB")
    assert check_job_folder(desk, other=desk).state == "ok"  # that line has said it


def test_folder_that_everybody_may_write_is_named(desk: Path) -> None:
    desk.chmod(0o777)

    finding = next(f for f in doctor.look(Doctor()).findings if f.name == "job folder")

    assert (finding.state, finding.fix) == ("note", f"chmod o-w {desk}")
    assert stat.S_IMODE(desk.stat().st_mode) == 0o777


def test_text_of_a_program_stays_one_line() -> None:
    finding = fails("slurm", "down\nfor\x1b[31m ever", "Wait")

    assert finding.line == "down for\\u001b[31m ever. Wait"


def test_json_is_one_document(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor.doctor(Doctor(checkpoints="/proc/nowhere", json=True))

    document = json.loads(capsys.readouterr().out)
    assert code == 1
    assert (document["schema"], document["ok"]) == (1, False)
    assert all(list(check) == ["name", "state", "found", "fix"] for check in document["checks"])
    states = {check["name"]: check["state"] for check in document["checks"]}
    assert states["checkpoints"] == "would fail"
    assert states["python"] == "ok"


def test_doctor_as_a_person_types_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    few_files = f"ulimit -n 64; exec {sys.executable} {REPO}/launch/doctor.py"

    well = launch("doctor", "--json", cwd=tmp_path)
    ill = launch("doctor", "--checkpoints=file/c", cwd=tmp_path)
    wrong = launch("doctor", "--checkpoints=s4://x", cwd=tmp_path)
    limited = subprocess.run(
        ["sh", "-c", few_files], cwd=tmp_path, env=environment_of_a_launcher(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert json.loads(well.stdout)["ok"], well.stdout
    assert (well.returncode, ill.returncode, wrong.returncode) == (0, 1, 2)
    assert ill.stdout.count("would fail ") == 1
    assert (wrong.stdout, wrong.stderr.count("\n")) == ("", 1)
    assert "would fail open files" in limited.stdout
    assert limited.returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
