"""
The plan of a batch inference: which rows make each part, and all that decides the answers.

    plan = scan_prompts(source, None, None, rows_per_part=128, settings=Settings(...))
    for record, question in plan.questions(part=3): ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from instruct_core.answers.line import refuse_taken
from instruct_core.answers.sampling import Sampling
from instruct_core.data.columns import Columns, parse_columns
from instruct_core.data.gpt2_tokenizer import TOKENIZER_NAME
from instruct_core.data.plan import Plan
from instruct_core.data.ranges import SourceFile, Start, scan_ranges
from instruct_core.data.record import Record
from instruct_core.data.sources import Source
from instruct_core.data.template import Segment, Template
from instruct_core.data.templates import BY_HEADINGS, exchanges_name, name_of_rows
from instruct_core.data.turns import EmptyQuestionError, Turn
from instruct_core.data.unread import ColumnCheck, chat_of
from instruct_core.errors import BadRowError, ConfigError
from instruct_core.recipe import Kept
from instruct_core.storage.documents import fingerprint_of


@dataclass(frozen=True)
class Settings:
    """What decides the answer to a question."""

    model: str
    """Path or URL of the weights."""
    model_xxh3: str
    """Hash of the weights; the place does not count."""
    max_new_tokens: int
    sampling: Sampling
    batch_size: int
    """Questions answered side by side; another number may change the last bits of a score."""
    answer_column: str
    drawing: int = 1
    """Which way of choosing tokens made the answers; see Sampling."""
    positions: int | None = None
    """Tokens of a question with its answer, where the model is trained on no more; else None."""
    weights: Kept = "fp32"
    """Numbers in which the model keeps them while it answers."""


@dataclass(frozen=True)
class AnswerPlan(Plan):
    """All that decides the answers; see the module's page."""

    part: ClassVar[str] = "part"
    remedy: ClassVar[str] = "Bring the old file back, or give another --out."

    source: str
    files: list[SourceFile]
    columns: str
    limit_rows: int | None
    num_rows: int
    rows_per_part: int
    starts: list[Start]
    settings: Settings
    template: str
    tokenizer: str
    unread: list[str] = field(default_factory=list, compare=False)
    template_text: str = ""  # of a template that is no part of the code
    num_filled: int | None = None  # rows without what the types of their file filled in, if any
    num_text_calls: int | None = None  # rows with calls of tools that stand in a text, if any

    @property
    def choices(self) -> dict[str, Any]:
        """What decides the answers, under the names a person knows it by."""
        settings = asdict(self.settings)
        sampling = settings.pop("sampling")
        del settings["model"]
        return {
            "source": [f.xxh3 for f in self.files],
            "columns": self.columns,
            "limit_rows": self.limit_rows,
            "rows_per_part": self.rows_per_part,
            "template": self.template,
            "tokenizer": self.tokenizer,
            **sampling,
            **settings,
            "null_keys": "left out" if self.num_filled else "kept",
            "text_calls": "read" if self.num_text_calls else "kept",
        }

    @property
    def fingerprint(self) -> str:
        """A hash of the choices."""
        choices = self.choices
        if choices["drawing"] == 1:  # plans of before there was another have no word for it
            del choices["drawing"]
        if choices["positions"] is None:  # and so of this
            del choices["positions"]
        if choices["weights"] == "fp32":  # and so of this
            del choices["weights"]
        if not self.num_filled:  # and so of this
            del choices["null_keys"]
        if not self.num_text_calls:  # and so of this
            del choices["text_calls"]
        return fingerprint_of(choices)

    def as_begun(self, old: AnswerPlan) -> AnswerPlan:
        """
        Return this plan in the words of an older one that asks the same.

        Columns for the input were named once, whether the source has them or not.
        """
        is_same = old.columns == f"{self.columns},input=input" and "input" not in self.unread
        return replace(self, columns=old.columns) if is_same else self

    def to_document(self) -> dict[str, Any]:
        """Return the plan as JSON values; what is not read decides no answer, and is only said."""
        document = super().to_document()
        del document["unread"]
        if not self.template_text:
            del document["template_text"]
        if not self.num_filled:
            del document["num_filled"]
        if not self.num_text_calls:
            del document["num_text_calls"]
        if self.settings.positions is None:
            del document["settings"]["positions"]
        if self.settings.weights == "fp32":
            del document["settings"]["weights"]
        return document

    def questions(
        self, part: int, template: Template
    ) -> Iterator[tuple[dict[str, Any], list[Segment]]]:
        """
        Yield the records of one part, in order, each with what leads up to its answer; nothing does
        where the question says nothing.

        Args:
            part: Which.
            template: `template_of` the plan's name and text.

        Raises:
            BadRowError: The source is no longer what was planned with.
        """
        columns = parse_columns(self.columns, is_answered=False)
        count = min(self.rows_per_part, self.num_rows - part * self.rows_per_part)
        for record in self.records(part, count):
            try:
                chat = chat_of(record, columns, (), is_answered=False)
                yield record.value, template.segments(chat.turns, asks=True)
            except EmptyQuestionError:
                yield record.value, []
            except ValueError as error:
                raise _bad_row(record, error) from None


def scan_prompts(
    source: Source,
    columns: Columns | None,
    limit_rows: int | None,
    rows_per_part: int,
    settings: Settings,
    template: Template = BY_HEADINGS,
    progress: Callable[[int], None] = lambda num_rows: None,
    tokenizer: str = TOKENIZER_NAME,
) -> AnswerPlan:
    """
    Read all questions once and return the plan of their answers.

    Args:
        columns: Where the question is; None detects it.
        limit_rows, rows_per_part: How many are taken; how many a task that is killed loses at most.
        template, tokenizer: How questions are written; what encodes them, by its identity.
        progress: Called with the rows read so far, every part.

    Raises BadRowError or ConfigError: a bad row, no row, unknown columns.
    """
    check = ColumnCheck(source, columns, is_answered=False)
    asked = _Questions(check, template, settings.answer_column)
    if not (
        ranges := scan_ranges(source, limit_rows, rows_per_part, asked.read, progress)
    ).num_rows:
        raise ConfigError(f"Source {source.name} has no rows.")
    return AnswerPlan(
        source=source.name,
        files=ranges.files,
        columns=str(check.columns),
        limit_rows=limit_rows,
        num_rows=ranges.num_rows,
        rows_per_part=rows_per_part,
        starts=ranges.starts,
        settings=replace(settings, drawing=settings.sampling.drawing),
        template=max(asked.names),  # sorted by version
        tokenizer=tokenizer,
        unread=check.unread,
        template_text=template.text,
        num_filled=asked.num_filled or None,
        num_text_calls=asked.num_text_calls or None,
    )


class _Questions:
    """
    Reads questions for the first time, and notes what decides the answers to all of them.

    Args:
        check: Knows the columns.
        template: Writes the questions.
        answer_column: Where answers will stand, which must be free.
    """

    def __init__(self, check: ColumnCheck, template: Template, answer_column: str) -> None:
        self._check, self._template, self._answer_column = check, template, answer_column
        self.names = {exchanges_name(template)}
        self.num_filled = self.num_text_calls = 0

    def read(self, record: Record) -> None:
        """Take a row; raises BadRowError."""
        try:
            with contextlib.suppress(EmptyQuestionError):  # answered with nothing
                chat = self._check.chat(record)
                self.num_filled += chat.had_fill
                self.num_text_calls += chat.had_text_calls
                self._template.segments(chat.turns, asks=True)
                self.names.add(_name_of(self._template, chat.turns))
            refuse_taken(record.value, self._answer_column)
        except ValueError as error:
            raise _bad_row(record, error) from None


def _name_of(template: Template, turns: Sequence[Turn]) -> str:
    is_chat = len(turns) > 1 and turns[-2].role != "system"
    return name_of_rows(template, template.writes_anew(turns), is_chat)


def _bad_row(record: Record, error: ValueError) -> BadRowError:
    return BadRowError(f"Row {record.where} cannot be used: {error}.")
