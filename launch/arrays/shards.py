"""
From a source to a finished shard set: check every row here, then let an array of tasks write.

    exit_code = prepare(Preprocess(source="builtin", out="shards/builtin"))

What is there and verifies is kept. A changed source, template or tokenizer is named, and then all
shards are made anew: the manifest goes first, so old and new are never taken for one set.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from instruct_core.data.columns import Columns, parse_columns
from instruct_core.data.fast_tokenizer import choose_tokenizer
from instruct_core.data.hub import dataset_of
from instruct_core.data.shard_plan import (
    BLOCK_ROWS,
    BY_PLACE,
    Encoder,
    ShardPlan,
    scan,
)
from instruct_core.data.shards import SPLITS, is_complete, load_manifest
from instruct_core.data.sources import BUILTIN, Source, resolve_source
from instruct_core.data.template import ALPACA
from instruct_core.data.templates import template_of
from instruct_core.data.tokenizer import (
    GPT2,
    TOKENIZER_FOLDER,
    Tokenizer,
    load_tokenizer,
    write_tokenizer,
)
from instruct_core.errors import ConfigError
from instruct_core.names import PLAIN_NAME
from instruct_core.storage.store import Store
from jobs.preprocess import PreprocessJob
from launch.arrays.array import make
from launch.arrays.work import Work, here_because, shown_scan
from launch.cluster.machine import choose_cluster, num_cores
from launch.cluster.request import request_of
from launch.console.lines import counted
from launch.flags.array import check_array_flags
from launch.flags.parse import check_counts
from launch.flags.preprocess import Preprocess
from launch.flags.slurm import check_slurm_flags
from launch.runs.places import absolute, check_url
from launch.runs.tokenizers import find_tokenizer


def prepare(flags: Preprocess, words: Sequence[str] = ()) -> int:
    """
    Make a shard set; return the exit code.

    Args:
        flags: What the person typed.
        words: The same as they were typed.
    """
    check_counts(flags, "limit_rows", "rows_per_shard")
    check_array_flags(flags.array)
    if flags.rows_per_shard is not None and flags.rows_per_shard % BLOCK_ROWS:
        raise ConfigError(
            f"--rows-per-shard must be a multiple of {BLOCK_ROWS}, got {flags.rows_per_shard}."
        )
    check_slurm_flags(flags.slurm)
    columns = parse_columns(flags.columns) if flags.columns else None
    if flags.source == BUILTIN and columns:
        raise ConfigError("--columns does not go with --source builtin, whose columns are known.")
    dataset = dataset_of(flags.source)
    name = dataset.name if dataset and any(dataset[1:]) else Path(flags.source).name.split(".")[0]
    out = flags.out or f"shards/{name}"
    if flags.out is None and not PLAIN_NAME.fullmatch(Path(out).name):
        raise ConfigError(f"--out must be given with --source {flags.source}: it names no folder.")
    found = find_tokenizer(flags.tokenizer)
    tokenizer = _tokenizer(found.place, flags)  # raises here rather than in every task
    check_url("--out", absolute(out), writes=not flags.array.dry_run)
    cluster, why = choose_cluster(flags.array.cluster, flags.slurm.clusters)
    request = request_of(flags.slurm, wants_gpus=False) if cluster == "slurm" else None
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(absolute(out))
        # A dry run writes nothing, not even a source that is made or downloaded.
        source = resolve_source(flags.source, Store(scratch) if flags.array.dry_run else store)
        old = ShardPlan.load_if_there(store)
        encoder = Encoder.of(tokenizer, found.again)
        plan = _plan(flags, store, old, source, columns, encoder)
        return make(
            _work(flags, words, store, plan, old, why, tokenizer),
            flags.array,
            flags.slurm,
            request,
            num_cores(),
        )


def _tokenizer(place: str, flags: Preprocess) -> Tokenizer:
    return choose_tokenizer(flags.encoder) if place == GPT2 else load_tokenizer(place)


def _plan(
    flags: Preprocess,
    store: Store,
    old: ShardPlan | None,
    source: Source,
    columns: Columns | None,
    encoder: Encoder,
) -> ShardPlan:
    """Return the old plan if it still fits, or read the source for a new one."""
    template = template_of(ALPACA, encoder.end)
    asked = (columns, flags.limit_rows, flags.skip_bad_rows, flags.rows_per_shard)
    # Tasks run in folders of their own, so the plan names files by their whole paths.
    elsewhere = source._replace(files=[absolute(file) for file in source.files])
    # What a run may have been trained on stays; chats that were only begun are begun anew.
    if (
        old is not None
        and old.still_fits(elsewhere, *asked, template, encoder)
        and (not old.may_end_once or is_complete(store, old))
    ):
        return old
    with shown_scan() as progress:
        plan = scan(source, *asked, template, progress, encoder)
    return replace(plan, files=[replace(f, url=absolute(f.url)) for f in plan.files])


def _work(
    flags: Preprocess,
    words: Sequence[str],
    store: Store,
    plan: ShardPlan,
    old: ShardPlan | None,
    why_here: str,
    tokenizer: Tokenizer,
) -> Work:
    def discard() -> None:
        store.remove("manifest.json")  # first: from here on nobody takes the old shards for these
        for folder in (*SPLITS, TOKENIZER_FOLDER):
            store.remove(folder)

    def ready() -> str:
        manifest = load_manifest(store)
        return (
            f"Shards are ready in {store.url}: {manifest['train_rows']:,} rows and "
            f"{manifest['train_tokens']:,} tokens to train on, {manifest['val_rows']:,} rows to "
            "validate."
        )

    return Work(
        job=PreprocessJob(store.url, flags.array.num_tasks, encoder=flags.encoder),
        plan=plan,
        old=old,
        what="Shards",
        where=store.url,
        name=f"shards-{store.url.rsplit('/', 1)[-1]}",
        about=[*here_because(why_here), *_about(plan, old)],
        discard=discard,
        provide=lambda: write_tokenizer(tokenizer, store / TOKENIZER_FOLDER),
        ready=ready,
        next_step="See: python launch/status.py; train as soon as they are there: "
        f"python launch/finetune.py --shards {store.url}",
        flags=flags,
        words=words,
    )


def _about(plan: ShardPlan, old: ShardPlan | None) -> list[str]:
    """Return lines on what the shards are made from, and what of it has changed."""
    lines = [f"Source: {plan.identity}, {plan.num_rows:,} rows; columns {plan.reading}"]
    if own := plan.own_tokenizer:
        lines.append(
            f"Tokenizer: {own.name} ({plan.tokenizer}), {own.vocab_size:,} tokens; its files go along "
            f"in {TOKENIZER_FOLDER}/"
        )
    lines += [f"  skipped {bad['where']}: {bad['problem']}" for bad in plan.bad_rows[:5]]
    if (more := plan.num_bad_rows - 5) > 0:
        listed = "the first thousand" if plan.more_bad_rows else "all"
        lines.append(f"  and {more:,} more; {listed} are in the manifest")
    if plan.num_duplicates:
        lines.append(
            f"Duplicates: {counted(plan.num_duplicates, 'row')}, word for word as one before; "
            "copies of a row are in one split"
        )
    if plan.num_open_ends:
        lines.append(
            f"Chats: {counted(plan.num_open_ends, 'row')} without what follows the last answer: nobody "
            "answers it"
        )
    if plan.num_open_starts:
        lines.append(
            f"Chats: {counted(plan.num_open_starts, 'row')} without what stands before the first "
            "question: nobody asked for it"
        )
    if plan.may_end_once:
        lines.append(
            "Made by an earlier version, which learnt the last answer of a chat alone, and kept so. "
            "Another --out learns and ends every answer."
        )
    if plan.split == BY_PLACE:
        lines.append(
            "Begun by an earlier version, and kept to it: copies of a row may be in both splits, and "
            "fields that are not read stop no row. Another --out does better."
        )
    if old is None or plan.makes_same_parts(old):
        return lines
    changes = plan.changes_since(old)
    lines += [f"Changed since these shards were made: {change}" for change in changes]
    return [*lines, "All shards are made anew."]
