"""A controller on this machine whose own code the disk breaks off, and which begins anew."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.conftest import HANGS_SECONDS, wait_for
from tests.jobs.survival.test_local_controller import controller, starts


def broken_off(folder: Path, waits: bool = False) -> None:
    """Write a module that the disk breaks off in every process but the third, as it would torch."""
    (folder / "broken_off.py").write_text(
        "import errno, pathlib, select\n"
        "tries = pathlib.Path('tries')\n"
        "with tries.open('a') as file: file.write('x')\n"
        f"while {waits} and not pathlib.Path('go').exists(): select.select([], [], [], 0.01)\n"
        "if tries.stat().st_size in (1, 3): raise OSError(errno.EIO, 'x')\n"
        "if tries.stat().st_size in (2, 4): raise AttributeError('partially initialized')\n"
    )


def test_controller_whose_code_is_broken_off_begins_anew_and_its_tasks_have_it_whole(
    tmp_path: Path,
) -> None:
    broken_off(tmp_path)
    script = "sys.exit(0 if 'broken_off' in sys.modules else 3)"
    process = controller(tmp_path, script, modules=["broken_off"])

    assert process.wait(timeout=HANGS_SECONDS) == 0

    assert (tmp_path / "tries").read_text() == "xxxxx"
    assert len(starts(tmp_path)) == 1


@pytest.mark.parametrize("signum", [signal.SIGUSR2, signal.SIGTERM])
def test_warning_to_a_controller_that_begins_anew_is_not_lost(
    tmp_path: Path, signum: signal.Signals
) -> None:
    broken_off(tmp_path, waits=True)
    is_warned = "'(warned)' in pathlib.Path('controller.err').read_text()"
    script = f"sys.exit(0) if {is_warned} else time.sleep(3)"
    process = controller(tmp_path, script, modules=["broken_off"])
    wait_for((tmp_path / "tries").exists, "the loading")

    process.send_signal(signum)
    (tmp_path / "go").touch()

    assert process.wait(timeout=HANGS_SECONDS) == 0
    said = (tmp_path / "controller.err").read_text()
    assert "Beginning anew" in said
    assert ("(warned)" in said) == (signum == signal.SIGUSR2)
    assert bool(starts(tmp_path)) == (signum == signal.SIGUSR2)


def test_warning_at_the_very_moment_of_beginning_anew_is_not_taken_by_a_thread(
    tmp_path: Path,
) -> None:
    broken_off(tmp_path)
    thread = (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    (tmp_path / "begins_a_thread.py").write_text(thread)
    patches = (
        "import os, signal; execv = os.execv\n"
        "def warned(*command):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    execv(*command)\n"
        "os.execv = warned"
    )
    modules = ["begins_a_thread", "broken_off"]
    process = controller(tmp_path, "sys.exit(0)", modules=modules, patches=patches)

    assert process.wait(timeout=HANGS_SECONDS) == 0

    assert "Beginning anew" in (tmp_path / "controller.err").read_text()
    assert starts(tmp_path) == []


def test_code_that_stays_in_part_is_left_to_the_tasks_to_complain_about(tmp_path: Path) -> None:
    broken_off(tmp_path)
    patches = "import jobs.patient; jobs.patient.CODE_SECONDS = 0.01"
    process = controller(tmp_path, "sys.exit(3)", modules=["broken_off"], patches=patches)

    assert process.wait(timeout=HANGS_SECONDS) == 1

    said = (tmp_path / "controller.err").read_text()
    assert "read in part: partially" in said
    assert "Beginning anew" not in said
    assert len(starts(tmp_path)) == 3
