"""The last question of a conversation: asked again, compared, and without an answer."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from instruct_core.answers.sampling import Sampling
from instruct_core.data.turns import Exchange
from instruct_core.errors import ConfigError
from launch.dialogue.dialogue import Dialogue
from launch.dialogue.speaker import Answer
from launch.flags.chat import Chat
from tests.conftest import HANGS_SECONDS, REPO, environment


class Scripted:
    """A speaker that says what it was told to, and keeps what it was asked."""

    place, kept = "checkpoints_instruct/r/step-00000004", "fp32"

    def __init__(self, *script: str | BaseException, reason: str = "end") -> None:
        self.script, self.reason = list(script), reason
        self.asked: list[tuple[int, Exchange]] = []

    def answer(
        self, turns: Sequence[Exchange], question: Exchange, sampling: Sampling, max_new_tokens: int,
        on_text: Callable[[str], None],
    ) -> Answer:  # fmt: skip
        self.asked.append((len(turns), question._replace(output="")))
        said = self.script.pop(0)
        if isinstance(said, BaseException):
            raise said
        on_text(said)
        return Answer(said, self.reason, 9, 4, 0, 0.5, 0.1)


def test_retry_after_an_empty_answer_asks_the_last_question() -> None:
    speaker = Scripted("a", "", "b")
    talk = Dialogue(Chat(), speaker)  # type: ignore[arg-type]

    for line in ("One?", "Two?", "/retry"):
        talk.take(line)

    assert speaker.asked[-1] == (1, Exchange("Two?", "", ""))
    assert talk.turns == [Exchange("One?", "", "a"), Exchange("Two?", "", "b")]


def test_question_may_begin_with_a_slash_and_has_the_system_prompt_with_it() -> None:
    speaker = Scripted("a", "b")
    talk = Dialogue(Chat(system="Be brief."), speaker)  # type: ignore[arg-type]

    for line in ("//etc?", "/set system Be kind.", "And now?"):
        talk.take(line)

    assert speaker.asked == [
        (0, Exchange("/etc?", system="Be brief.")),
        (1, Exchange("And now?", system="Be kind.")),
    ]


def test_compare_after_an_empty_answer_is_of_the_last_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = Scripted("base")
    monkeypatch.setattr("launch.dialogue.dialogue.load_base", lambda *_: base)
    talk = Dialogue(Chat(), Scripted("a", ""))  # type: ignore[arg-type]

    for line in ("One?", "Two?", "/compare"):
        talk.take(line)

    assert base.asked == [(1, Exchange("Two?", "", ""))]


def test_retry_keeps_the_input_of_its_question() -> None:
    speaker = Scripted("a", "b")
    talk = Dialogue(Chat(input="old"), speaker)  # type: ignore[arg-type]

    for line in ("One?", "/set input new", "/retry"):
        talk.take(line)

    assert speaker.asked[-1] == (0, Exchange("One?", "old", ""))


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), ConfigError("Too long."), ""])
def test_retry_without_an_answer_keeps_the_one_before(ending: str | BaseException) -> None:
    talk = Dialogue(Chat(), Scripted("a", ending))  # type: ignore[arg-type]
    talk.take("One?")

    with contextlib.suppress(KeyboardInterrupt, ConfigError):
        talk.take("/retry")

    assert talk.turns == [Exchange("One?", "", "a")]


def test_blanks_up_to_the_longest_answer_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Dialogue(Chat(), Scripted("", reason="length"))  # type: ignore[arg-type]

    talk.take("One?")

    assert capsys.readouterr().err == "(Only blanks came in 4 tokens.)\n"


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_letter_that_the_locale_lacks_is_a_question_mark(encoding: str) -> None:
    script = (
        "from launch.console.lines import guarded, say\n"
        "guarded(lambda: say('a\\u4e2d') or say('b') or 0)"
    )

    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, timeout=HANGS_SECONDS,
        env=environment() | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}, check=False,
    )  # fmt: skip

    assert (result.stdout, result.stderr) == ("a?\nb\n", "")


def test_program_gets_every_letter_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    talk = Dialogue(Chat(json=True), Scripted("\u4e2d"))  # type: ignore[arg-type]

    talk.take("One?")

    assert json.loads(written.getvalue())["response"] == "\u4e2d"


@pytest.mark.parametrize("is_typed", [False, True])
def test_ctrl_c_in_an_answer_ends_all_questions_but_those_of_somebody_who_types(
    capsys: pytest.CaptureFixture[str], is_typed: bool
) -> None:
    speaker = Scripted("half", reason="interrupted")
    talk = Dialogue(Chat(json=True), speaker)  # type: ignore[arg-type]
    talk.is_typed = is_typed

    with contextlib.nullcontext() if is_typed else pytest.raises(KeyboardInterrupt):
        talk.ask("One?")

    assert json.loads(capsys.readouterr().out)["finish_reason"] == "interrupted"
