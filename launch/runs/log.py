"""
One log of a run over all its attempts and jobs, or of an array's tasks: what launch/logs.py prints.

    exit_code = show_log(Logs(run="my-run", follow=True))

While the job waits, -f says for what and until when, beside what was logged.
"""

from __future__ import annotations

import codecs
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from instruct_core.storage.plain_file import open_plain
from launch.cluster.slurm import NEVER_STARTS_HELP
from launch.console.lines import EXIT_FAILED, note, without_controls
from launch.flags.logs import Logs
from launch.runs.log_files import ArrayLog, RunLog, log_source
from launch.runs.waiting import waits_for

POLL_SECONDS = 0.5
pause = time.sleep  # a test's own


def show_log(flags: Logs) -> int:
    """Print what was logged, and go on until the run ends if asked to; return the exit code."""
    source = log_source(flags)
    reader, told = _Reader(source), ""
    while True:
        goes_on = source.goes_on()  # asked before the last look
        for text in reader.news():
            sys.stdout.write(without_controls(text.replace("\r\n", "\n").replace("\r", "\n")))
        sys.stdout.flush()
        if not flags.follow or not goes_on:
            break
        if (waits := waits_for(source.records())) != told:
            told = waits
            note(f"{source.what}: {waits or source.state()}")
        pause(POLL_SECONDS)
    if not reader.has_read:
        note(
            f"{source.what} has logged nothing yet: {waits_for(source.records()) or source.state()}."
        )
    if flags.follow and source.never_starts():
        what = source.what[:1].lower() + source.what[1:]
        note(f"error: {what} {NEVER_STARTS_HELP}.")
        return EXIT_FAILED
    return 0


class _Reader:
    """What has been added to the logs of a source since the last time."""

    def __init__(self, source: RunLog | ArrayLog) -> None:
        self._source = source
        self._read: dict[Path, tuple[int, codecs.IncrementalDecoder]] = {}
        self._shown: int | None = None  # task whose log was shown last

    @property
    def has_read(self) -> bool:
        """Whether there is a log at all."""
        return bool(self._read)

    def news(self) -> Iterator[str]:
        """Yield what is new; a line before it where another task goes on."""
        for path, task in self._source.files():
            # A letter may be half written yet.
            fresh = codecs.getincrementaldecoder("utf-8")(errors="replace")
            size, decoder = self._read.get(path, (0, fresh))
            with os.fdopen(open_plain(path), "rb") as file:
                file.seek(size)
                data = file.read()
            self._read[path] = (size + len(data), decoder)
            if text := decoder.decode(data):
                if task != self._shown:
                    self._shown = task
                    yield f"=== task {task}\n"
                yield text
