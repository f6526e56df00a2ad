"""A chart that is drawn where there is no home."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPO, environment


def test_chart_says_nothing_to_who_has_no_home_that_can_be_written() -> None:
    env = {
        name: value
        for name, value in environment().items()
        if not name.startswith(("XDG_", "MPLCONFIG"))
    }
    draws = "from launch.pages.chart import line_chart; line_chart({'a': [(1, 2)]}, 'x', 'y')"

    done = subprocess.run(
        [sys.executable, "-c", draws],
        env=env | {"HOME": "/dev/null"}, cwd=REPO, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert (done.stdout, done.stderr) == ("", "")
