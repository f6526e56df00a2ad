"""What is printed is text, whoever wrote it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from launch.console.lines import guarded, note, one_line, say, without_controls


@pytest.mark.parametrize("show", [say, note])
def test_no_line_has_a_control_in_it(show: object, capsys: pytest.CaptureFixture[str]) -> None:
    everything = "".join(map(chr, range(0x3000)))

    show(everything)  # type: ignore[operator]

    said = capsys.readouterr()
    shown = said.out + said.err
    left = {letter for letter in shown if unicodedata.category(letter) in ("Cc", "Zl", "Zp")}
    assert left == {"\n", "\t"}
    assert unicodedata.bidirectional("\u202e") not in map(unicodedata.bidirectional, shown)


def test_document_stays_the_same_document() -> None:
    text = "".join(chr(code) for code in range(0x3000))

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
