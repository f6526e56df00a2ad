"""
What every plan of an array is: a source cut into parts, fixed before the first task starts.

    plan = ShardPlan.load(store)            # or AnswerPlan
    for record in plan.records(3, count=250): ...
    plan.changes_since(old)                 # ["limit_rows: None -> 500"]

Part k is a function of the plan and k; how many tasks there are decides nothing. The plan's
fingerprint is a hash of all that goes into the bytes of its parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import cattrs

from instruct_core.converter import structure
from instruct_core.data.columns import shown_names
from instruct_core.data.ranges import SourceFile, Start, records_from, stat_files
from instruct_core.data.record import Record
from instruct_core.errors import BadRowError, CorruptFileError
from instruct_core.storage.documents import dump_document, load_document
from instruct_core.storage.store import Store

PLAN = "plan.json"
BEGUN = (
    "These shards were begun by an earlier version, which {}, and cannot be finished by this one. Give "
    "another --out, or remove them."
)


class Plan(ABC):
    """What all plans share; each is a dataclass whose fields stand in the order of its file."""

    part: ClassVar[str]  # what one part is called, in the file too
    remedy: ClassVar[str]  # for a source that changed on the way

    source: str
    files: list[SourceFile]
    columns: str
    limit_rows: int | None
    num_rows: int
    starts: list[Start]  # per part
    template: str
    tokenizer: str
    unread: list[str]  # columns that the source has besides

    @property
    def reading(self) -> str:
        """Which columns are read, and which are not."""
        return self.columns + (f"; not read: {shown_names(self.unread)}" if self.unread else "")

    @property
    @abstractmethod
    def choices(self) -> dict[str, Any]:
        """What decides the bytes of the parts, under the names a person knows it by."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that decides the bytes of the parts."""

    @property
    def num_parts(self) -> int:
        """How many parts there are."""
        return len(self.starts)

    @property
    def urls(self) -> list[str]:
        """Where the files of the source are."""
        return [file.url for file in self.files]

    def has_source(self, urls: Sequence[str]) -> bool:
        """Return True if these are the files of the plan and they have not changed since."""
        return stat_files(urls) == [(file.url, file.bytes, file.modified) for file in self.files]

    def makes_same_parts(self, other: Plan | None) -> bool:
        """Return True if the parts of both plans have the same bytes."""
        return other is not None and other.fingerprint == self.fingerprint

    def changes_since(self, old: Plan) -> list[str]:
        """Return what has changed since another plan of this kind, choice by choice."""
        before, hashes = old.choices, [file.xxh3 for file in self.files]
        return [
            "other rows in the source"
            if value == hashes
            else f"{name}: {before.get(name)} -> {value}"
            for name, value in self.choices.items()
            if before.get(name) != value
        ]

    def records(self, part: int, count: int) -> Iterator[Record]:
        """
        Yield the ``count`` records of one part in source order.

        Raises:
            BadRowError: The source is no longer what was planned with.
        """
        for record in records_from(self.urls, self.starts[part], count):
            yield record
            count -= 1
        if count or not self.has_source(self.urls):
            raise BadRowError(
                f"Source {self.source} changed after the command was given, noticed in {self.part} "
                f"{part}. {self.remedy}"
            )

    def to_document(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        starts = [{self.part: k, "start": list(start)} for k, start in enumerate(self.starts)]
        values: dict[str, Any] = cattrs.unstructure(vars(self))
        return {"format": 1, "fingerprint": self.fingerprint} | values | {"starts": starts}

    @classmethod
    def from_document(cls, document: dict[str, Any], where: str) -> Self:
        """
        Return the plan of `to_document`.

        Raises:
            CorruptFileError: A key is missing or of another type; ``where`` names the file.
        """
        problem = f"{where} is no plan of this version"
        try:
            starts = [entry["start"] for entry in document["starts"]]
        except (KeyError, TypeError):
            raise CorruptFileError(f"{problem}: starts is no list of starts.") from None
        return structure(document | {"starts": starts}, cls, problem)

    @classmethod
    def load(cls, store: Store) -> Self:
        """
        Return the plan that lies beside its parts.

        Raises:
            FileNotFoundError: There is none.
            CorruptFileError: It is no plan.
        """
        return cls.from_document(load_document(store, PLAN), store.where(PLAN))

    def save(self, store: Store) -> None:
        """Put the plan beside its parts."""
        store.replace(PLAN, dump_document(self.to_document()))
