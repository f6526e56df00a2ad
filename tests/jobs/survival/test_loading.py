"""What a controller on this machine loads once, for all tasks and all their starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import HANGS_SECONDS
from tests.jobs.survival.test_local_controller import controller, starts


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
