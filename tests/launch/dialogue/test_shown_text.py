"""What a model says is text on a terminal, and whole for a program."""

from __future__ import annotations

import json

import pytest

from tests.launch.dialogue.test_dialogue import dialogue


def test_answer_moves_no_cursor_and_a_program_gets_every_letter(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hostile = "a\x1b[2J\x85\x7f\u202eb\u2028c"

    dialogue().take(hostile)
    shown = capsys.readouterr().out
    dialogue(json=True).take(hostile)
    document = capsys.readouterr().out

    assert shown == "0 0 a\\u001b[2J\\u0085\\u007f\\u202eb\\u2028c \n"
    assert json.loads(document)["response"] == f"0 0 {hostile}"
    assert not set("\x1b\x85\x7f\u202e\u2028") & set(document)
