"""
A conversation: what was said so far, and the commands that begin with `/`.

    dialogue = Dialogue(flags, speaker)
    dialogue.take("What is AI?")

Answers go to the standard output, and everything else to the standard error, so that a program
reads nothing but answers.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from rich.table import Table

from instruct_core.answers.sampling import Sampling
from instruct_core.data.turns import Exchange
from instruct_core.errors import ConfigError
from launch.console.display import show_table
from launch.console.lines import counted, note, say, say_whole, without_controls
from launch.dialogue.speaker import Answer, Speaker, load_base, load_step
from launch.flags.chat import Chat


class Dialogue:
    """
    What was said so far, and how the next question is answered.

    Args:
        flags: What was asked for; /set changes a part of it.
        speaker: Who answers.
    """

    def __init__(self, flags: Chat, speaker: Speaker) -> None:
        self._flags, self.speaker = flags, speaker
        self._base: Speaker | None = None
        if flags.base:  # now, and not at the first /compare: it may not be there
            self._base = load_base(speaker.place, flags.base, speaker.kept)
        self.turns: list[Exchange] = []
        self._asked: Exchange | None = None  # last; its output is "" where no answer came
        self._commands: dict[str, tuple[Callable[[str], None], str]] = {
            "help": (self._help, "this list"),
            "set": (self._set, "/set temperature 0.5 changes a setting; /set alone shows all"),
            "retry": (self._retry, "answer the last question again, with the next seed"),
            "compare": (self._compare, "the base model's answer beside the last one"),
            "history": (self._history, "the conversation so far"),
            "clear": (self._clear, "forget the conversation"),
            "reload": (self._reload, "take the newest checkpoint, or the best with --step best"),
            "quit": (self._quit, "end, as Ctrl-D does"),
        }
        self.is_over = False
        self.is_typed = False  # by somebody who sees the answers, and asks the next question then

    def take(self, line: str) -> None:
        """
        Answer a question, or do what a command says.

        Raises:
            ConfigError: No such command, or one that cannot be done now.
        """
        if not line.startswith("/") or line.startswith("//"):
            self.ask(line.removeprefix("/"))
            return
        name, _, rest = line[1:].strip().partition(" ")
        if name not in self._commands:
            known = ", ".join(f"/{known}" for known in self._commands)
            raise ConfigError(f"Command /{name} is not known. Commands: {known}.")
        self._commands[name][0](rest.strip())

    def ask(self, question: str) -> None:
        """Answer a question and remember both."""
        self._asked = Exchange(question.strip(), self._flags.input, "", self._flags.system)
        self._reply(self._asked)

    def _reply(self, row: Exchange) -> None:
        """Answer what was asked last; an answer it already has goes only when another has come."""
        before = self._before(row)
        answer = self._answer(self.speaker, before, row, show=not self._flags.json)
        if self._flags.json:
            self._say_json(row, answer)
        if answer.text:
            self._asked = row._replace(output=answer.text)
            self.turns[:] = [*before, self._asked]
        if answer.finish_reason == "interrupted" and not self.is_typed:
            raise KeyboardInterrupt  # no other question is wanted, and nobody takes this for a success

    def _answer(self, speaker: Speaker, turns: list[Exchange], row: Exchange, show: bool) -> Answer:
        def on_text(part: str) -> None:
            if show and part:
                sys.stdout.write(without_controls(part))
                sys.stdout.flush()

        flags = self._flags
        answer = speaker.answer(turns, row, flags.sampling, flags.max_new_tokens, on_text)
        if show:
            say("")
            if not answer.text and answer.finish_reason != "interrupted":
                note(_why_empty(answer))
        if answer.num_dropped:
            limit = f", which was {answer.trained}" if answer.trained else ""
            note(
                f"The conversation no longer fits the model{limit}: the {answer.num_dropped} oldest of "
                f"{len(turns)} exchanges were left out. /clear forgets them."
            )
        return answer

    def _say_json(self, row: Exchange, answer: Answer, **more: str) -> None:
        document = {
            "prompt": row.instruction,
            "input": row.input,
            "response": answer.text,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.num_prompt_tokens,
            "new_tokens": answer.num_new_tokens,
            "dropped_turns": answer.num_dropped,
            "seconds": answer.seconds,
            "first_token_seconds": answer.first_token_seconds,
            "checkpoint": self.speaker.place,
        }
        # A program gets every letter back, whatever the locale can write.
        has_all_letters = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
        say_whole(json.dumps(document | more, ensure_ascii=not has_all_letters))

    def _last(self) -> Exchange:
        if self._asked is None:
            raise ConfigError("There is no question yet. Ask one first.")
        return self._asked

    def _before(self, last: Exchange) -> list[Exchange]:
        """Return the exchanges before the last question, which is one itself if it was answered."""
        return self.turns[:-1] if last.output else self.turns[:]

    def _help(self, _: str) -> None:
        for name, (_do, meaning) in self._commands.items():
            note(f"  /{name:9}{meaning}")
        note(
            "Anything else is a question; //x asks /x. At a terminal, \\ at its end goes on below."
        )
        note("Ctrl-C stops an answer.")

    def _set(self, rest: str) -> None:
        settings = {field.name: field.type for field in fields(Sampling)}
        kinds = {**settings, "max_new_tokens": "int", "input": "str", "system": "str"}
        if not rest:
            values = {**vars(self._flags), **vars(self._flags.sampling)}
            for name in kinds:
                note(f"  {name.replace('_', '-'):20}{values[name]}")
            return
        typed, _, value = rest.partition(" ")
        name = typed.replace("-", "_")
        if name not in kinds:
            known = ", ".join(kinds).replace("_", "-")
            raise ConfigError(f"Setting {typed} is not known. Settings: {known}.")
        try:
            new = {"float": float, "int": int, "str": str}[str(kinds[name])](value.strip())
        except ValueError:
            raise ConfigError(f"/set {typed} takes a number, got {value.strip()!r}.") from None
        if name in settings:
            sampling = replace(self._flags.sampling, **{name: new})
            sampling.check()
            self._flags = replace(self._flags, sampling=sampling)
        elif name == "max_new_tokens" and int(new) < 1:
            raise ConfigError(f"/set {typed} must be at least 1, got {new}.")
        else:
            self._flags = replace(self._flags, **{name: new})

    def _retry(self, _: str) -> None:
        last = self._last()
        sampling = self._flags.sampling
        if sampling.temperature == 0:
            note("The likeliest answer stays the same: /set temperature 0.8 draws others.")
        self._flags = replace(self._flags, sampling=replace(sampling, seed=sampling.seed + 1))
        self._reply(last)

    def _compare(self, _: str) -> None:
        tuned = self._last()
        if self._base is None:
            self._base = load_base(self.speaker.place, self._flags.base, self.speaker.kept)
        answer = self._answer(self._base, self._before(tuned), tuned, show=False)
        if self._flags.json:
            self._say_json(tuned, answer, tuned_response=tuned.output, base=self._base.place)
            return
        table = Table(*(f"{what}: {who.place.rsplit('/', 1)[-1]}" for what, who in (
            ("tuned", self.speaker), ("base", self._base)
        )), show_lines=True)  # fmt: skip
        table.add_row(tuned.output, answer.text)
        show_table(table)

    def _history(self, _: str) -> None:
        for row in self.turns:
            say(f"> {row.instruction}")
            say_whole(row.output)

    def _clear(self, _: str) -> None:
        self.turns.clear()
        self._asked = None

    def _reload(self, _: str) -> None:
        run, step = self.speaker.run, self.speaker.step
        if run is None:
            raise ConfigError(
                "--checkpoint names one model: there is no newer one. Start with --run."
            )
        if run.step_place(run.good_step(step, note)) == self.speaker.place:
            still = "the one of --step" if isinstance(step, int) else f"the {step}"
            note(f"{Path(self.speaker.place).name} is still {still}.")
            return
        self.speaker = load_step(run, step, self.speaker.kept)
        note(f"Talking to {Path(self.speaker.place).name} now.")

    def _quit(self, _: str) -> None:
        self.is_over = True


def _why_empty(answer: Answer) -> str:
    if answer.finish_reason == "length":
        return f"(Only blanks came in {counted(answer.num_new_tokens, 'token')}.)"
    return "(The model ended its answer before the first word.)"
