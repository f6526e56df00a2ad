"""launch/chat.py as a person uses it: typed, piped, by a program, and with Ctrl-C."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from instruct_core.answers.sampling import Sampling
from instruct_core.data.turns import Exchange
from instruct_core.errors import ConfigError
from instruct_core.model.packed import HalvedLinear
from launch.dialogue.dialogue import Dialogue
from launch.dialogue.speaker import Answer, load_base, load_speaker, load_step
from launch.flags.chat import Chat
from launch.flags.run import ModelFlags
from tests.conftest import HANGS_SECONDS, launch
from tests.launch.dialogue.terminal import Terminal

ANSWER = ["--max-new-tokens=12"]


class Echo:
    """A speaker that answers with the number of turns before, its seed and the question."""

    place, kept = "checkpoints_instruct/r/step-00000004", "fp32"

    def answer(
        self, turns: Sequence[Exchange], question: Exchange, sampling: Sampling, max_new_tokens: int,
        on_text: Callable[[str], None],
    ) -> Answer:  # fmt: skip
        text = f"{len(turns)} {sampling.seed} {question.input}{question.instruction}"
        for word in text.split(" "):
            on_text(f"{word} ")
        return Answer(text, "end", 9, 5, max(0, len(turns) - 2), 0.5, 0.1)


def dialogue(**flags: object) -> Dialogue:
    return Dialogue(Chat(**flags), Echo())  # type: ignore[arg-type]


def chat(cwd: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return launch("chat", *ANSWER, *arguments, cwd=cwd, typed=typed)


def test_questions_are_one_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    talk = dialogue()

    for line in ("One?", "Two?", "/clear", "Three?"):
        talk.take(line)

    assert capsys.readouterr().out.splitlines() == ["0 0 One? ", "1 0 Two? ", "0 0 Three? "]
    assert talk.turns == [Exchange("Three?", "", "0 0 Three?")]


def test_retry_answers_again_with_the_next_seed() -> None:
    talk = dialogue()

    for line in ("One?", "Two?", "/retry"):
        talk.take(line)

    assert [turn.output for turn in talk.turns] == ["0 0 One?", "1 1 Two?"]


def test_history_is_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    talk = dialogue()
    talk.take("One?")
    capsys.readouterr()

    talk.take("/history")

    assert capsys.readouterr().out == "> One?\n0 0 One?\n"


def test_dropped_exchanges_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    talk = dialogue()

    for line in ("One?", "Two?", "Three?", "Four?"):
        talk.take(line)

    assert "the 1 oldest of 3 exchanges were left out" in capsys.readouterr().err


def test_settings_hold_from_the_next_question_on() -> None:
    talk = dialogue(input="a ")

    for line in ("/set seed 7", "One?", "/set input b ", "/set max-new-tokens 5", "Two?"):
        talk.take(line)

    assert [turn.output for turn in talk.turns] == ["0 7 a One?", "1 7 bTwo?"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/dance", "Command /dance is not known. Commands: /help, "),
        ("/set", ""),
        ("/set colour red", "Setting colour is not known. Settings: temperature, "),
        ("/set seed x", "/set seed takes a number, got 'x'"),
        ("/set top-p 2", "--top-p must be more than 0 and at most 1, got 2.0"),
        ("/set max-new-tokens 0", "/set max-new-tokens must be at least 1, got 0"),
        ("/retry", "There is no question yet"),
        ("/compare", "There is no question yet"),
    ],
)
def test_command_that_cannot_be_done_says_why_and_changes_nothing(line: str, message: str) -> None:
    talk = dialogue()

    if message:
        with pytest.raises(ConfigError, match=re.escape(message)):
            talk.take(line)
    else:
        talk.take(line)

    talk.take("One?")
    assert talk.turns == [Exchange("One?", "", "0 0 One?")]


def test_piped_questions_are_answered_a_line_each(trained: Path) -> None:
    result = chat(trained, typed="Say number 3.\n\n/quit\nnever asked\n")

    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) >= 1
    alone = chat(trained, "--run=r", "--prompt=Say number 3.")
    assert alone.stdout == result.stdout


def test_bad_line_of_a_pipe_is_named_and_the_others_are_answered(trained: Path) -> None:
    result = chat(trained, "--json", typed="/dance\nSay number 3.\n" + "word " * 1100 + "\n")

    assert result.returncode == 2
    assert len(result.stdout.splitlines()) == 1
    unknown, too_long = result.stderr.splitlines()
    assert unknown.startswith("error: Command /dance is not known.")
    assert too_long.startswith("error: The question has 1,1")
    assert too_long.endswith("Shorten it.")


def test_programs_get_one_object_an_answer(trained: Path) -> None:
    asked = ["--prompt=Say number 3.", "--prompt=Zwölf?", "--input=1, 2"]

    result = chat(trained, "--json", "--temperature=1", "--seed=5", "--top-k=9", *asked)

    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["prompt"], second["prompt"]) == ("Say number 3.", "Zwölf?")
    assert first["input"] == "1, 2"
    assert first["dropped_turns"] == second["dropped_turns"] == 0
    assert first["new_tokens"] == 12
    assert first["finish_reason"] == "length"
    assert first["checkpoint"].endswith("r/step-00000004")
    assert 0 < first["first_token_seconds"] <= first["seconds"]


def test_base_is_what_the_run_started_from(trained: Path) -> None:
    result = chat(trained, "--json", typed="Say number 3.\n/compare\n")

    answered, compared = (json.loads(line) for line in result.stdout.splitlines())
    assert compared["tuned_response"] == answered["response"]
    assert compared["base"] == "random weights of tiny"
    assert compared["response"] != answered["response"]


def test_all_that_a_chat_loads_keeps_its_weights_as_they_were_asked_for(trained: Path) -> None:
    checkpoints = str(trained / "checkpoints_instruct")

    speaker = load_speaker(ModelFlags(checkpoints=checkpoints, weights="fp16"))

    assert speaker.run is not None
    again = load_step(speaker.run, "newest", speaker.kept)
    base = load_base(speaker.place, None, speaker.kept)
    for one in (speaker, again, base):
        assert one.kept == "fp16"
        assert isinstance(one._model.answering_head, HalvedLinear)


def test_damaged_step_is_named_and_the_one_before_answers(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "desk")
    weights = tmp_path / "desk/checkpoints_instruct/r/step-00000004/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 1
    weights.write_bytes(data)

    result = chat(tmp_path / "desk", "--json", "--prompt=Hi.")

    assert json.loads(result.stdout)["checkpoint"].endswith("step-00000002")
    assert "step-00000004" in result.stderr
    assert "Taking the one before." in result.stderr


def test_ctrl_c_stops_the_answer_and_not_the_chat(trained: Path) -> None:
    flags = ["--max-new-tokens=900", "--temperature=1", "--seed=3"]
    whole = chat(trained, *flags, "--prompt=Say number 3.").stdout.strip()
    terminal = Terminal(trained, *flags)
    try:
        terminal.wait_for("Talking to step-00000004. /help shows commands")
        terminal.wait_for("> ")
        terminal.type("Say number 3.\n")
        terminal.wait_for("\n")  # the question itself
        terminal.wait_for(" ")  # the first words of an answer of several seconds
        terminal.press_ctrl_c("> ")
        said = terminal.heard.partition("3.\n")[2].partition("^C")[0].strip()
        assert whole.startswith(said)
        assert 0 < len(said) < len(whole)
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.press_ctrl_c("\n")  # throws the line away; not the old prompt, drawn once more
        terminal.wait_for("> ")
        terminal.type("/history\n")
        terminal.wait_for("> Say number 3.")
        terminal.wait_for("> ")
        terminal.type("\x04")  # Ctrl-D
        assert terminal.process.wait(timeout=HANGS_SECONDS) == 0
    finally:
        terminal.close()

    remembered = (trained / "state/instruct-cluster/chat_history").read_text()
    assert "Say number 3." in remembered
    assert "half a line" not in remembered


def test_reload_takes_the_step_that_was_saved_meanwhile(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "desk")
    steps = tmp_path / "desk/checkpoints_instruct/r"
    shutil.move(steps / "step-00000004", tmp_path / "later")
    terminal = Terminal(tmp_path / "desk", "--run=r")
    try:
        terminal.wait_for("Talking to step-00000002.")
        terminal.type("/reload\n")
        terminal.wait_for("step-00000002 is still the newest.")
        shutil.move(tmp_path / "later", steps / "step-00000004")
        terminal.type("/reload\n")
        terminal.wait_for("Talking to step-00000004 now.")
        terminal.type("/quit\n")
        assert terminal.process.wait(timeout=HANGS_SECONDS) == 0
    finally:
        terminal.close()
