"""
The plan of a shard set of several sources: each has a plan of its own, and shards of its own.

    plan = MixedPlan.of([plan_of_a, plan_of_b], weights=[0.7, 0.3])
    plan.num_parts                               # those of a, then those of b
    load_shard_plan(store)                       # a plain ShardPlan where there is one source

Which rows validate is decided by what they say and by one range of hashes for all sources, so a row
that stands in two of them is in one split; or they are those of a source of their own (`held_out`),
and no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from instruct_core.data.encoding import SPANS_FORMAT
from instruct_core.data.mixture import places_of
from instruct_core.data.plan import PLAN
from instruct_core.data.shard_plan import BY_TEXT, ShardPlan
from instruct_core.data.split import are_between, in_validation
from instruct_core.data.template import Segment, Template, text_of
from instruct_core.errors import CorruptFileError
from instruct_core.storage.documents import fingerprint_of, load_document
from instruct_core.storage.store import Store


@dataclass(frozen=True)
class MixedPlan(ShardPlan):
    """All that decides the bytes of the shards, and the order in which they are read."""

    sources: list[ShardPlan] = field(default_factory=list)  # in the order in which they were named
    weights: list[float] = field(default_factory=list)  # of what is read; none reads all rows alike
    held_out: bool = False  # the last source is there to validate, and no other
    num_also_trained: int = 0  # rows to train on that say what one that validates does
    num_in_several: int = 0  # rows to train on that say what one of a source before does

    @classmethod
    def of(
        cls,
        sources: Sequence[ShardPlan],
        weights: Sequence[float],
        held_out: bool = False,
        num_also_trained: int = 0,
    ) -> Self:
        """
        Return the plan of sources.

        Args:
            sources: Their plans.
            weights: One for each that is trained on, or none.
            held_out: Whether the last is there to validate.
            num_also_trained: How many rows of the others it has too.
        """
        if not held_out:
            sources = _split_alike(sources)
        first, texts = sources[0], [source.template for source in sources]
        return cls(
            source=", ".join(source.source for source in sources),
            identity=", ".join(source.identity for source in sources),
            files=[file for source in sources for file in source.files],
            columns="; ".join(dict.fromkeys(source.columns for source in sources)),
            limit_rows=first.limit_rows,
            skip_bad_rows=first.skip_bad_rows,
            num_rows=sum(source.num_rows for source in sources),
            rows_per_shard=first.rows_per_shard,
            starts=[start for source in sources for start in source.starts],
            bad_rows=list(chain.from_iterable(source.bad_rows for source in sources)),
            template=max(texts),  # the newest: what a version of before wrote, it writes alike
            tokenizer=first.tokenizer,
            split=BY_TEXT,
            num_duplicates=sum(source.num_duplicates for source in sources),
            more_bad_rows=sum(source.more_bad_rows for source in sources),
            unread=list(dict.fromkeys(name for source in sources for name in source.unread)),
            template_text=first.template_text,
            template_typed=first.template_typed,
            long_rows=first.long_rows,
            num_open_ends=sum(source.num_open_ends for source in sources),
            num_open_starts=sum(source.num_open_starts for source in sources),
            **_noted(sources),
            own_tokenizer=first.own_tokenizer,
            sources=list(sources),
            weights=list(weights),
            held_out=held_out,
            num_also_trained=num_also_trained,
        )

    @property
    def format(self) -> int:
        """The format of its file, and of the manifest."""
        return SPANS_FORMAT

    @property
    def may_end_once(self) -> bool:
        """No version that learnt the last answer of a chat alone mixed sources."""
        return False

    @property
    def trained(self) -> list[ShardPlan]:
        """The sources that are trained on."""
        return self.sources[: len(self.sources) - self.held_out]

    @property
    def shares(self) -> list[float]:
        """Which part of all that is read each source is, 0..1; none where all rows are read alike."""
        return [places / 1000 for places in places_of(self.weights)] if self.weights else []

    @property
    def mixture(self) -> list[dict[str, Any]]:
        """What the manifest says of sources with weights."""
        return [
            {"source": source.identity, "weight": weight, "shards": source.num_parts}
            for source, weight in zip(self.trained, self.weights, strict=False)
        ]

    @property
    def choices(self) -> dict[str, Any]:
        """What decides the shards and their order, under the names a person knows it by."""
        return {
            "source": [f"{source.source} ({source.fingerprint[:12]})" for source in self.trained],
            "weights": self.weights,
            "val_source": [source.source for source in self.sources[len(self.trained) :]],
        }

    @property
    def fingerprint(self) -> str:
        """A hash of the plans of the sources, and of how they are mixed."""
        plans = [source.fingerprint for source in self.sources]
        return fingerprint_of(["mixture-1", plans, self.weights, self.held_out])

    def is_val(self, shard: int, texts: Sequence[str | None]) -> NDArray[np.bool_]:
        """Return for each source row of a shard whether it belongs to the validation split."""
        source, local = self._place(shard)
        if self.held_out:
            return np.full(len(texts), source is self.sources[-1])
        return source.is_val(local, texts)

    def blocks(self, shard: int) -> tuple[int, int, int]:
        """Return of which source a shard is, which of its blocks is the first, and how many there are."""
        source, local = self._place(shard)
        number = next(n for n, one in enumerate(self.sources) if one is source)
        return number, *source.blocks(local)[1:]

    def chosen(self, shard: int, hashes: NDArray[np.uint64]) -> dict[str, NDArray[np.bool_]]:
        """Return for each split which good rows of a shard are in it, by the hashes of their texts."""
        source, local = self._place(shard)
        if not self.held_out:
            return source.chosen(local, hashes)
        is_last, none = source is self.sources[-1], np.zeros(len(hashes), bool)
        kept = ~none
        if is_last and source.val_rows is not None:
            kept = are_between(hashes, source.val_hashes)
        return {"train": none if is_last else kept, "val": kept if is_last else none}

    def rows(self, shard: int, template: Template) -> Iterator[list[Segment] | None]:
        """Yield the rows of one shard, as `ShardPlan.rows`; None for one that is left out."""
        source, local = self._place(shard)
        only = self.held_out and source is self.sources[-1] and source.val_rows is not None
        for row in source.rows(local, template):
            if only and row is not None:
                yield row if in_validation([text_of(row)], source.val_hashes)[0] else None
            else:
                yield row

    def _place(self, shard: int) -> tuple[ShardPlan, int]:
        for source in self.sources:
            if shard < source.num_parts:
                return source, shard
            shard -= source.num_parts
        raise IndexError(shard)

    def to_document(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        noted = {"num_in_several": self.num_in_several} if self.num_in_several else {}
        return noted | {
            "format": self.format,
            "fingerprint": self.fingerprint,
            "template": self.template,
            "tokenizer": self.tokenizer,
            "weights": self.weights,
            "held_out": self.held_out,
            "num_also_trained": self.num_also_trained,
            "sources": [source.to_document() for source in self.sources],
        }

    @classmethod
    def from_document(cls, document: dict[str, Any], where: str) -> Self:
        """Return the plan of `to_document`; raises CorruptFileError."""
        try:
            sources, weights = document["sources"], [float(w) for w in document["weights"]]
            plans = [ShardPlan.from_document(source, where) for source in sources]
            held_out = document["held_out"] is True
            plan = cls.of(plans, weights, held_out, int(document.get("num_also_trained", 0)))
            return replace(plan, num_in_several=int(document.get("num_in_several", 0)))
        except (KeyError, TypeError, ValueError, IndexError):
            raise CorruptFileError(f"{where} is no plan of this version.") from None


def _noted(sources: Sequence[ShardPlan]) -> dict[str, Any]:
    """Return what is written where there is something to say, over all sources."""
    numbers = {
        name: sum(getattr(source, name) or 0 for source in sources) or None
        for name in ("num_markers", "num_filled", "num_text_calls", "num_lossy")
    }
    unwritten = sum((Counter(source.unwritten or {}) for source in sources), Counter[str]())
    return {**numbers, "unwritten": dict(sorted(unwritten.items())) or None}


def _split_alike(sources: Sequence[ShardPlan]) -> list[ShardPlan]:
    """Return the plans with one range of hashes: the largest tells best which has so many rows."""
    largest = max(sources, key=lambda source: source.num_rows)
    return [replace(source, val_hashes=largest.val_hashes) for source in sources]


def load_shard_plan(store: Store) -> ShardPlan:
    """
    Return the plan that lies beside its shards, of one source or several.

    Raises:
        FileNotFoundError: There is none.
        CorruptFileError: It is no plan.
    """
    document, where = load_document(store, PLAN), store.where(PLAN)
    kind = MixedPlan if "sources" in document else ShardPlan
    return kind.from_document(document, where)
