"""What is printed is text, whoever wrote it."""

from __future__ import annotations

import errno
import json
import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.console.lines import (
    EXIT_BAD_INPUT,
    guarded,
    note,
    note_whole,
    one_line,
    say,
    say_whole,
    without_controls,
)

EVERYTHING = "".join(map(chr, range(0x10000)))


@pytest.mark.parametrize("show", [say, note, say_whole, note_whole])
def test_no_text_has_a_control_in_it(
    show: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for start in range(0, len(EVERYTHING), 1000):
        show(EVERYTHING[start : start + 1000])

    said = capsys.readouterr()
    shown = set(said.out + said.err) - {"\n", "\t"}
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert not [c for c in shown if unicodedata.bidirectional(c) in turning]
    assert not shown & set(
        "\u200e\u200f\u061c\ufeff"
    )  # marks of a direction, and one that nobody sees
    assert "\u200d" in shown  # joins what a person sees as one
    assert said.out.count("\n") + said.err.count("\n") >= len(EVERYTHING) // 1000


@pytest.mark.parametrize("show", [say, note])
def test_line_is_one_whoever_wrote_it(
    show: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show("a\r\nb\nc\x85d\u2028e\x0bf" + "x" * 3_000_000 + "What to do.")

    said = capsys.readouterr()
    [line] = (said.out + said.err).splitlines()
    assert line.startswith("a ↵ b ↵ c ↵ d ↵ e ↵ fxx")
    assert "characters left out" in line
    assert line.endswith("xWhat to do.")
    assert len(line) < 5000


def test_document_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"text": "\u2028" + "x" * 10_000}

    say_whole(json.dumps(document, ensure_ascii=False))

    assert json.loads(capsys.readouterr().out) == document


def test_document_stays_the_same_document() -> None:
    text = " ".join(EVERYTHING)  # two halves side by side would be one letter

    line = without_controls(json.dumps({"text": text}, ensure_ascii=False))

    assert json.loads(line) == {"text": text}


def test_names_with_line_breaks_stay_on_their_line() -> None:
    assert one_line("a\r\nb\nc\td") == "a ↵ b ↵ c d"


def test_error_is_one_line_whatever_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise ConfigError("Source a\nb\x1b[31m is not there.")

    assert guarded(fail) == 2
    assert capsys.readouterr().err == "error: Source a b\\u001b[31m is not there.\n"


def test_folder_that_was_removed_meanwhile_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert guarded(lambda: 0) == 2
    assert capsys.readouterr().err == (
        "error: The folder that you type in is gone: somebody has removed it. Go to another one: cd\n"
    )


def test_streams_that_are_closed_are_empty_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)

    def main() -> int:
        say("nobody reads this")
        note("nor this")
        return len(sys.stdin.read()) + sys.stdin.isatty() + sys.stdout.isatty()

    assert guarded(main) == 0
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


def test_output_for_which_there_is_no_room_is_one_line_that_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> int:
        with Path("/dev/full").open("w") as full:
            full.write("a line")
        return 0

    assert guarded(main) == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert said.startswith(
        "error: What this command prints, or a file without a name, has no room: No"
    )


def test_error_that_nobody_hears_still_has_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of cron's whose log lies on a full disk."""

    def fail() -> int:
        raise ConfigError("Source a is not there.")

    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)

        assert guarded(fail) == EXIT_BAD_INPUT

        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # for what it still has


def test_file_that_is_not_ours_is_named_with_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/r/job")

    assert guarded(fail) == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert said == "error: runs/r/job cannot be used: Permission denied. Ask who owns it.\n"
