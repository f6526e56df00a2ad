"""What the tasks of a machine without a scheduler share with their controller, and what they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import HANGS_SECONDS
from tests.jobs.survival.test_local_controller import controller, starts


def test_task_does_not_collect_what_its_controller_has_loaded(tmp_path: Path) -> None:
    script = "import gc; note(f'left {len(gc.get_objects())} frozen {gc.get_freeze_count()}')"
    process = controller(tmp_path, script, modules=["email.message"])

    assert process.wait(timeout=HANGS_SECONDS) == 0

    _, left, _, frozen = starts(tmp_path)[-1]
    assert int(left) < int(frozen) / 10


def test_start_that_the_disk_does_not_let_happen_is_tried_again(tmp_path: Path) -> None:
    patches = (
        "from instruct_core.storage import patience\n"
        "patience.FIRST_PAUSE_SECONDS = 0.0\n"
        "answers = iter([OSError(28, 'No space left on device'), OSError(5, 'EIO'), None])\n"
        "class Controller(module.LocalController):\n"
        "    def _start(self):\n"
        "        if problem := next(answers): raise problem\n"
        "        super()._start()\n"
        "module.LocalController = Controller"
    )
    process = controller(tmp_path, "", patches=patches)

    assert process.wait(timeout=HANGS_SECONDS) == 0

    assert len(starts(tmp_path)) == 1


def test_tasks_share_one_loading_of_what_they_import_at_every_start(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("import os\nopen('loaded', 'a').write(f'{os.getpid()}\\n')")
    script = "import heavy\nif num < 3: sys.exit(144)"
    process = controller(tmp_path, script, num_tasks=2, modules=["heavy"])

    assert process.wait(timeout=HANGS_SECONDS) == 0

    assert len(starts(tmp_path)) >= 5
    assert (tmp_path / "loaded").read_text().split() == [str(process.pid)]


@pytest.mark.parametrize(
    "fault",
    [
        "if not third: raise OSError(5, 'EIO')\n",
        "if third: os.mkdir('shared'), pathlib.Path('shared/late_code.py').touch()\nimport late_code\n",
    ],
)
def test_code_that_the_disk_refuses_at_first_is_loaded_for_all_tasks(
    tmp_path: Path, fault: str
) -> None:
    (tmp_path / "heavy.py").write_text(
        "import os, pathlib, sys\n"
        "sys.path.append('shared')\n"
        "with open('loads', 'a') as file: file.write(f'{os.getpid()}\\n')\n"
        "third = len(pathlib.Path('loads').read_text().split()) == 3\n" + fault
    )
    patches = "from instruct_core.storage import patience\npatience.FIRST_PAUSE_SECONDS = 0.0\n"
    process = controller(tmp_path, "import heavy", num_tasks=2, modules=["heavy"], patches=patches)

    assert process.wait(timeout=HANGS_SECONDS) == 0

    assert (tmp_path / "loads").read_text().split() == [str(process.pid)] * 3


def test_what_cannot_be_loaded_is_left_to_the_tasks_to_say(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    process = controller(tmp_path, "sys.exit(0 if rank else 3)", num_tasks=1, modules=["broken"])

    assert process.wait(timeout=HANGS_SECONDS) == 1

    assert len(starts(tmp_path)) == 3
    assert "broken could not be loaded" in (tmp_path / "controller.err").read_text()


def test_task_has_nothing_of_its_controllers(tmp_path: Path) -> None:
    """Neither its lock, nor its handlers, nor a signal that is blocked, nor its logging."""
    (tmp_path / "opens.py").write_text(
        "import os; lock = os.open('lock', os.O_CREAT | os.O_WRONLY)"
    )
    script = (
        "note(os.listdir('/proc/self/fd')[:-1])\n"  # without the one that lists
        "note(signal.pthread_sigmask(signal.SIG_BLOCK, []) or 'open')\n"
        "note({signal.getsignal(s).name for s in (10, 12, 15)})\n"
        "logging.basicConfig(level=logging.WARNING)\n"
        "logging.warning('a word'), logging.info('another'), print('said')"
    )
    process = controller(tmp_path, script, modules=["opens"])

    assert process.wait(timeout=HANGS_SECONDS) == 0

    _, files, mask, handlers = (tmp_path / "starts").read_text().splitlines()
    assert files == "['0', '1', '2']"
    assert (mask, handlers) == ("open", "{'SIG_DFL'}")
    [log] = tmp_path.glob("*_log.*")
    assert log.name.endswith("_0_log.out"), "the file that `logs` reads"
    assert sorted(log.read_text().splitlines()) == ["WARNING:root:a word", "said"]
