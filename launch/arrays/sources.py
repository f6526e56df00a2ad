"""
Which sources are meant, how they are mixed, and which one validates.

    asked = read_sources(flags)
    asked.trained, asked.weights, asked.val_source     # ("a.jsonl", "b.jsonl"), [0.7, 0.3], None
    plan = plan_of(asked, old, make=lambda number, old, texts: ...)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from instruct_core.data.columns import shown_names
from instruct_core.data.hub import dataset_of
from instruct_core.data.mixed_plan import MixedPlan
from instruct_core.data.mixture import places_of
from instruct_core.data.shard_plan import ShardPlan
from instruct_core.data.sources import BUILTIN, Source
from instruct_core.data.split import Texts
from instruct_core.errors import ConfigError
from launch.console.lines import counted
from launch.flags.preprocess import Preprocess

DEFAULT = "vicgalle/alpaca-gpt4"


class Sources(NamedTuple):
    """The sources of a shard set."""

    trained: tuple[str, ...]
    weights: list[float]  # none where every row is read alike
    val_source: str | None

    @property
    def names(self) -> list[str]:
        """All of them; the one that validates is the last."""
        return [*self.trained, *([self.val_source] if self.val_source else [])]

    @property
    def name(self) -> str:
        """Of the set, where nobody gave one; "" where there is no one name."""
        if len(self.trained) > 1:
            return ""
        dataset = dataset_of(self.trained[0])
        if dataset is not None and any(dataset[1:]):
            return dataset.name
        return Path(self.trained[0]).name.split(".")[0]


def read_sources(flags: Preprocess) -> Sources:
    """
    Return the sources that were typed.

    Raises:
        ConfigError: Weights that are no numbers or not one for each, or flags that do not go together.
    """
    sources = Sources(flags.source or (DEFAULT,), _weights(flags), flags.val_source)
    if flags.columns and BUILTIN in sources.names:
        raise ConfigError("--columns does not go with --source builtin, whose columns are known.")
    if flags.columns and len(sources.names) > 1:
        raise ConfigError("--columns does not go with several sources, whose columns are detected.")
    if len(sources.trained) > 1 and flags.out is None:
        raise ConfigError("--out must be given with several sources: they have no one name.")
    if len(sources.trained) > 1 and flags.val_rows and not flags.val_source:
        raise ConfigError("--val-rows with several sources needs --val-source, which has them.")
    return sources


def _weights(flags: Preprocess) -> list[float]:
    if flags.weights is None:
        return []
    number = len(flags.source)
    try:
        weights = [float(word) for word in flags.weights.split(",")]
    except ValueError:
        weights = []
    if number < 2 or len(weights) != number or not all(0 < w < math.inf for w in weights):
        raise ConfigError(
            f"--weights must be numbers above 0, one for each of several --source, got "
            f"{flags.weights!r} for {max(1, number)}."
        )
    if 0 in (places := places_of(weights)):
        raise ConfigError(
            f"--weights must give each --source a thousandth of what is read at least, got "
            f"{flags.weights!r}: {flags.source[places.index(0)]} would never be read. Give it more, or "
            "leave it out."
        )
    return weights


Make = Callable[[int, ShardPlan | None, Texts], ShardPlan]


def plan_of(asked: Sources, old: ShardPlan | None, make: Make) -> ShardPlan:
    """
    Return the plan of a shard set.

    Args:
        asked: Its sources.
        old: The plan that lies there now.
        make: Returns the plan of one source, by its number and the old plan of the same number, which
            it is where that still fits; else the texts of the rows are noted.
    """
    number = len(asked.names)
    if number == 1:
        return make(0, None if isinstance(old, MixedPlan) else old, Texts())
    there = old.sources if isinstance(old, MixedPlan) else []
    olds = [*there, *[None] * number][:number]
    texts = [Texts() for _ in olds]
    plans = [make(n, before, texts[n]) for n, before in enumerate(olds)]
    held_out = asked.val_source is not None
    kept = [plan is before for plan, before in zip(plans, olds, strict=True)]
    if isinstance(old, MixedPlan) and all(kept):
        counts = old.num_also_trained if held_out else 0, old.num_in_several
    else:
        # Those of which nothing was read: what their rows say is compared.
        plans = [make(n, None, texts[n]) if kept[n] else plan for n, plan in enumerate(plans)]
        counts = _copies(texts, plans[-1] if held_out else None)
    plan = MixedPlan.of(plans, asked.weights, held_out, counts[0])
    return replace(plan, num_in_several=counts[1])


def _copies(texts: Sequence[Texts], validates: ShardPlan | None) -> tuple[int, int]:
    """Return how many rows to train on are among those that validate, and in a source before theirs."""
    trained, also_trained = list(texts), 0
    if validates is not None:
        hashes = validates.val_hashes if validates.val_rows is not None else []
        also_trained = sum(one.num_among(trained[-1], hashes) for one in trained[:-1])
        del trained[-1]
    before, in_several = Texts(), 0
    for one in trained:
        in_several += one.num_among(before, [])
        before.add_all(one)
    return also_trained, in_several


def folder_lines(sources: Sequence[Source]) -> list[str]:
    """Return a line for each source that is a folder with files that are not read."""
    return [
        f"Source {source.name}: {counted(len(source.files), 'file')} in the order of their names; not "
        f"read: {shown_names(source.left)}"
        for source in sources
        if source.left
    ]


def mixture_lines(plan: ShardPlan) -> list[str]:
    """Return lines on what each of several sources is there for."""
    if not isinstance(plan, MixedPlan):
        return []
    shares = plan.shares or [0.0] * len(plan.trained)
    lines = [
        f"Source: {source.identity}, {counted(source.num_rows, 'row')}"
        + (f", {share:.1%} of what is read" if share else "")
        for source, share in zip(plan.trained, shares, strict=True)
    ]
    if plan.num_in_several:
        lines.append(
            f"Duplicates: {counted(plan.num_in_several, 'row')}, word for word as one of a source "
            "before; they are read from each"
        )
    lines += [f"Validation: {source.identity}" for source in plan.sources[len(plan.trained) :]]
    if plan.num_also_trained:
        lines.append(
            f"Overlap: {counted(plan.num_also_trained, 'row')} to train on, word for word as one that "
            "validates: its loss is about memory. Take them out of one of the sources"
        )
    return lines
