"""Rows longer than a sequence: cut, truncated or dropped, and what that costs is counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from instruct_core.data.batches import IGNORED, SampleReader
from instruct_core.data.fast_tokenizer import choose_tokenizer
from instruct_core.data.long_rows import LongRows, pieces_of
from instruct_core.data.lost_tokens import check_learns, learns_nothing, lost_of, measurable
from instruct_core.data.mixed_plan import MixedPlan
from instruct_core.data.packing import load_packing, pack, packing_of
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.shards import ShardSet, write_manifest, write_shard
from instruct_core.data.sources import Source
from instruct_core.data.split import hash_of
from instruct_core.data.template import text_of
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.errors import ConfigError
from instruct_core.recipe import LossOn
from instruct_core.storage.store import Store

SEQ_LEN = 64


@pytest.fixture(params=["cut", "truncate", "drop"])
def long_rows(request: pytest.FixtureRequest) -> LongRows:
    chosen: LongRows = request.param
    return chosen


def plan_of(folder: Path) -> ShardPlan:
    """Plan short rows, rows with a long answer, and rows with a long question."""
    lengths = [(3, 4)] * 20 + [(3, 90)] * 3 + [(90, 4)] * 2
    rows = [
        {"instruction": f"{n} " + "word " * asked, "output": "word " * answered}
        for n, (asked, answered) in enumerate(lengths)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return scan(Source("rows", "rows", [str(path)]), None, None, skip_bad_rows=False)


def set_of(folder: Path, long_rows: LongRows) -> Store:
    plan = replace(plan_of(folder), long_rows=long_rows)
    store = Store(folder / "set")
    plan.save(store)
    write_shard(store, plan, 0, choose_tokenizer("tiktoken"))
    assert write_manifest(store, plan)
    return store


def test_row_that_just_fits_is_whole(long_rows: LongRows) -> None:
    rows, starts, lengths = pieces_of(np.array([SEQ_LEN, SEQ_LEN + 1]), SEQ_LEN, long_rows)

    pieces = list(zip(rows.tolist(), starts.tolist(), lengths.tolist(), strict=True))
    of_the_longer = {
        "cut": [(1, 0, SEQ_LEN), (1, SEQ_LEN, 1)],
        "truncate": [(1, 0, SEQ_LEN)],
        "drop": [],
    }
    assert pieces == [(0, 0, SEQ_LEN), *of_the_longer[long_rows]]


def test_what_long_rows_cost_is_counted(tmp_path: Path, long_rows: LongRows) -> None:
    rows = ShardSet(set_of(tmp_path, long_rows), "train")
    packing = pack(rows.lengths(), SEQ_LEN, 1, rows.long_rows)
    sequences = np.arange(packing.num_sequences, dtype=np.uint64)
    batch = SampleReader(rows, packing, "response").micro_batch(sequences)

    lost = lost_of(rows, packing)

    spans = [rows.spans(row)[0].tolist() for row in range(len(rows))]
    responses = sum(last - first for first, last in spans)
    is_long = rows.lengths() > SEQ_LEN
    assert lost.num_rows == is_long.sum() > 0
    beyond = sum(max(0, last - max(first, SEQ_LEN + 1)) for first, last in spans)
    whole = sum(last - first for (first, last), long in zip(spans, is_long, strict=True) if long)
    expected = {"cut": (beyond, 0), "truncate": (0, beyond), "drop": (0, whole)}[long_rows]
    assert (lost.alone, lost.unread) == tuple(count / responses for count in expected)
    if long_rows != "cut":
        assert int((batch.targets != IGNORED).sum()) == responses - expected[1]
        assert (packing.starts == 0).all()
        assert len(packing.rows) == (len(rows) if long_rows == "truncate" else (~is_long).sum())
    silent = sum(first > SEQ_LEN for first, _ in spans)
    assert lost.num_silent == (silent if long_rows == "truncate" else 0)


@pytest.mark.parametrize("loss_on", ["all", "response"])
def test_split_without_a_target_is_known_as_one(
    tmp_path: Path, long_rows: LongRows, loss_on: LossOn
) -> None:
    rows = ShardSet(set_of(tmp_path, long_rows), "train")

    for seq_len in range(8, 40):  # the first answers begin, and end, on the way
        packing = pack(rows.lengths(), seq_len, 1, rows.long_rows)
        sequences = np.arange(packing.num_sequences, dtype=np.uint64)
        batch = SampleReader(rows, packing, loss_on).micro_batch(sequences)

        assert learns_nothing(rows, packing, loss_on) == (batch.num_loss_tokens == 0), seq_len


@pytest.mark.parametrize(
    ("choice", "what"),
    [
        ("truncate", "every row is cut off before its answer"),
        ("drop", "every row is longer, and left out by --long-rows drop"),
    ],
)
def test_nothing_to_learn_is_refused_and_nothing_to_validate_is_left_out(
    tmp_path: Path, choice: LongRows, what: str
) -> None:
    rows = ShardSet(set_of(tmp_path, choice), "train")
    packing = pack(rows.lengths(), 8, 1, rows.long_rows)

    said = rf"--seq-len 8 leaves nothing to learn: {what}. Give .* has 1\d\d tokens\."
    with pytest.raises(ConfigError, match=said):
        check_learns(rows, packing, "response")

    assert measurable(rows, packing, "response").num_sequences == 0
    assert (measurable(rows, packing, "all") is packing) == (choice == "truncate")


@pytest.mark.parametrize(
    ("choice", "loss_on", "others", "said"),
    [
        (
            "truncate",
            "response",
            9,
            "of long, which has a weight: every row of it is cut off before",
        ),
        ("drop", "all", 9, "of long, which has a weight: every row of it is longer, and left out"),
        ("drop", "all", 0, "Source long has a weight and no row to train on: its rows validate"),
    ],
)
def test_source_with_a_weight_of_which_nothing_is_learnt_is_refused(
    tmp_path: Path, choice: LongRows, loss_on: LossOn, others: int, said: str
) -> None:
    short = [{"instruction": f"Say {n}.", "output": "It is said."} for n in range(20)]
    long = [{"instruction": f"{n} " + "word " * 90, "output": "Yes."} for n in range(others)]
    plans = []
    for name, rows in (("short", short), ("long", [*long, short[0]])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        plans.append(scan(Source(name, name, [str(path)]), None, None, skip_bad_rows=False))
    first = f"{hash_of(text_of(next(plans[0].rows(0, BY_HEADINGS)) or [])):016x}"
    plans = [replace(p, val_hashes=[first, first], long_rows=choice) for p in plans]
    plan, store = MixedPlan.of(plans, [0.7, 0.3]), Store(tmp_path / "set")
    for shard in range(plan.num_parts):
        write_shard(store, plan, shard, choose_tokenizer("tiktoken"))
    assert write_manifest(store, plan)
    rows = ShardSet(store, "train")

    with pytest.raises(ConfigError, match=said):
        check_learns(rows, packing_of(rows, SEQ_LEN, 1), loss_on)

    if others:
        check_learns(rows, packing_of(rows, 200, 1), loss_on)


def test_choice_is_part_of_the_set(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)

    truncated, dropped = (replace(plan, long_rows="truncate"), replace(plan, long_rows="drop"))

    assert replace(plan, long_rows="cut").fingerprint == plan.fingerprint
    assert len({plan.fingerprint, truncated.fingerprint, dropped.fingerprint}) == 3
    assert dropped.changes_since(plan) == ["long_rows: cut -> drop"]
    assert [p.format for p in (plan, truncated, dropped)] == [2, 3, 3]
    assert ShardPlan.from_document(dropped.to_document(), "plan.json") == dropped


def test_set_of_which_no_row_is_left_is_refused(tmp_path: Path) -> None:
    store = set_of(tmp_path, "drop")
    manifest = load_manifest(store)

    with pytest.raises(
        ConfigError, match=r"--seq-len must be longer: all \d+ rows .* than 4 tokens"
    ):
        load_packing(store, ShardSet(store, "train"), "train", manifest.fingerprint, 4, 1)
