"""
From a source to a finished shard set: check every row here, then let an array of tasks write.

    exit_code = prepare(Preprocess(source=("builtin",), out="shards/builtin"))

What is there and verifies is kept. A changed source, template or tokenizer is named, and then all
shards are made anew: the manifest goes first, so old and new are never taken for one set.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from instruct_core.data.columns import Columns, parse_columns
from instruct_core.data.drafts import BLOCK_ROWS
from instruct_core.data.encoder import Encoder
from instruct_core.data.fast_tokenizer import choose_tokenizer
from instruct_core.data.long_rows import LongRows
from instruct_core.data.reading import How
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.shards import (
    SPLITS,
    is_complete,
    write_manifest,
    write_shard,
)
from instruct_core.data.sources import Source, resolve_source
from instruct_core.data.split import EVERY_HASH, Texts
from instruct_core.data.template import Template
from instruct_core.data.templates import TEMPLATES, base_template, choose_template
from instruct_core.data.tokenizer import Tokenizer, load_tokenizer, write_tokenizer
from instruct_core.data.tokenizer_files import GPT2, TOKENIZER_FOLDER
from instruct_core.errors import ConfigError
from instruct_core.names import PLAIN_NAME
from instruct_core.storage.store import Store
from jobs.preprocess import PreprocessJob
from launch.arrays.about_shards import about_plan
from launch.arrays.array import make
from launch.arrays.drafting import Drafting
from launch.arrays.inspection import inspect_set
from launch.arrays.other_things import OF_SHARDS, refuse_other_things
from launch.arrays.sources import Sources, folder_lines, mixture_lines, plan_of, read_sources
from launch.arrays.work import Work, here_because, shown_scan
from launch.cluster.machine import choose_cluster, num_cores
from launch.cluster.request import request_of
from launch.console.commands import command, shown_path
from launch.console.lines import counted, note
from launch.flags.array import check_array_flags
from launch.flags.parse import check_counts
from launch.flags.preprocess import Preprocess
from launch.flags.slurm import check_slurm_flags
from launch.runs.places import absolute, check_folder, check_url
from launch.runs.tokenizers import find_tokenizer

MAX_CHECKING = 4  # processes on a machine that others log in to


def prepare(flags: Preprocess, words: Sequence[str] = ()) -> int:
    """
    Make a shard set; return the exit code.

    Args:
        flags: What the person typed.
        words: The same as they were typed.
    """
    _check(flags)
    asked = read_sources(flags)
    out = flags.out or f"shards/{asked.name}"
    if flags.out is None and not PLAIN_NAME.fullmatch(Path(out).name):
        raise ConfigError(
            f"--out must be given with --source {asked.trained[-1]}: it names no folder."
        )
    store, looks = Store(absolute(out)), flags.inspect is not None
    only_out = flags.out is not None and not flags.source
    if looks and not _is_typed("--source", words) and (only_out or store.exists("manifest.json")):
        return inspect_set(store, flags)
    choices = _choices(flags)
    if store.is_local and not looks:
        check_folder("--out", out, store.local_path(""), num_bytes=0)
    check_url("--out", store.url, writes=not (flags.array.dry_run or looks))
    old = PreprocessJob(store.url, flags.array.num_tasks).plan_if_there()
    is_made = old is not None and is_complete(store, old)
    if old is None and not looks:
        refuse_other_things(out, store, OF_SHARDS)
    cluster, why = choose_cluster(flags.array.cluster, flags.slurm.clusters)
    request = request_of(flags.slurm, wants_gpus=False) if cluster == "slurm" else None
    with tempfile.TemporaryDirectory() as folder:
        # A dry run writes nothing, not even a source that is made or downloaded.
        scratch = Store(folder)
        place = scratch if flags.array.dry_run or looks else store
        sources = [resolve_source(name, place) for name in asked.names]
        if looks:
            fits = old is not None and _still_fits(flags, old, is_made, sources[0], choices)
            if fits and store.exists("manifest.json"):
                return inspect_set(store, flags)
            return _inspect_sources(flags, scratch, asked, sources, choices)
        about = [*here_because(why), *folder_lines(sources), *_about_template(choices)]
        with _drafting(flags, cluster, store, choices.tokenizer) as drafting:

            def plan_one(number: int, old: ShardPlan | None, texts: Texts) -> ShardPlan:
                how = partial(drafting.how, number, sources[number])
                return _plan(flags, old, is_made, sources[number], choices, texts, how)

            plan = plan_of(asked, old, plan_one)
            work = _work(flags, words, store, plan, old, about, choices.tokenizer)
            work = replace(work, at_hand=drafting.writer(plan))
            return make(work, flags.array, flags.slurm, request, num_cores())


def _check(flags: Preprocess) -> None:
    check_counts(flags, "limit_rows", "rows_per_shard", "val_rows")
    check_array_flags(flags.array)
    if flags.rows_per_shard is not None and flags.rows_per_shard % BLOCK_ROWS:
        raise ConfigError(
            f"--rows-per-shard must be a multiple of {BLOCK_ROWS}, got {flags.rows_per_shard}."
        )
    check_slurm_flags(flags.slurm)
    check_counts(flags, "inspect")
    if flags.json and flags.inspect is None:
        raise ConfigError("--json goes with --inspect N, which shows rows.")


def _drafting(flags: Preprocess, cluster: str, store: Store, tokenizer: Tokenizer) -> Drafting:
    """Return how rows are read: a dry run makes no tokens, and with `debug` all is in one process."""
    array = flags.array
    if cluster == "debug":
        return Drafting(store, None, 1)
    if cluster == "slurm" or array.dry_run:
        return Drafting(store, None, min(num_cores(), MAX_CHECKING))
    return Drafting(store, tokenizer, min(array.num_tasks, array.array_parallelism or num_cores()))


def _is_typed(flag: str, words: Sequence[str]) -> bool:
    return any(word == flag or word.startswith(f"{flag}=") for word in words)


class _Choices(NamedTuple):
    """What becomes of rows, as it was typed."""

    columns: Columns | None
    tokenizer: Tokenizer
    encoder: Encoder
    template: Template
    long_rows: LongRows


def _choices(flags: Preprocess) -> _Choices:
    """Return what was typed; what cannot be used is refused here rather than in every task."""
    columns = parse_columns(flags.columns) if flags.columns else None
    found = find_tokenizer(flags.tokenizer)
    is_gpt2 = found.place == GPT2
    tokenizer = choose_tokenizer(flags.encoder) if is_gpt2 else load_tokenizer(found.place)
    template = choose_template(flags.template, tokenizer)
    by_template: LongRows = "truncate" if template.text else "cut"
    long_rows = by_template if flags.long_rows == "auto" else flags.long_rows
    return _Choices(columns, tokenizer, Encoder.of(tokenizer, found.again), template, long_rows)


def _inspect_sources(
    flags: Preprocess, scratch: Store, asked: Sources, sources: Sequence[Source], choices: _Choices
) -> int:
    """Show the first rows of sources; what is made for it goes with the scratch folder."""
    count = min(flags.inspect or 1, flags.limit_rows or flags.inspect or 1)
    few = replace(flags, limit_rows=count, val_rows=None)
    plan = plan_of(
        asked, None, lambda n, _, texts: _plan(few, None, False, sources[n], choices, texts)
    )
    for line in [*mixture_lines(plan), *about_plan(plan, None)]:
        note(line)
    plan.save(scratch)
    write_tokenizer(choices.tokenizer, scratch / TOKENIZER_FOLDER)
    for shard in range(plan.num_parts):
        write_shard(scratch, plan, shard, choices.tokenizer)
    write_manifest(scratch, plan)
    return inspect_set(scratch, flags)


def _about_template(choices: _Choices) -> list[str]:
    """Return a line where the base has a chat template of its own, and rows are written without one."""
    if choices.template.text or base_template(choices.tokenizer) is None:
        return []
    return [
        f"Template: alpaca; {choices.tokenizer.name} has one of its own, which --template base writes"
    ]


def _still_fits(
    flags: Preprocess, old: ShardPlan, is_made: bool, source: Source, choices: _Choices
) -> bool:
    """Return True if a plan that is there can be gone on with; its shards may be made already."""
    # Tasks run in folders of their own, so the plan names files by their whole paths.
    elsewhere = source._replace(files=[absolute(file) for file in source.files])
    asked = (choices.columns, flags.limit_rows, flags.skip_bad_rows, flags.rows_per_shard)
    written = (choices.template, choices.encoder, choices.long_rows, _val_rows(flags, source))
    # What a run may have been trained on stays; what an earlier version only began is begun anew.
    is_of_now = not (old.may_end_once or old.may_have_fill)
    return old.still_fits(elsewhere, *asked, *written) and (is_made or is_of_now)


def _val_rows(flags: Preprocess, source: Source) -> int | None:
    """Return how many rows of a source validate; None where nobody said."""
    return flags.val_rows if flags.val_source in (None, source.name) else None


def _plan(
    flags: Preprocess,
    old: ShardPlan | None,
    is_made: bool,
    source: Source,
    choices: _Choices,
    texts: Texts | None = None,
    how: Callable[[], How] = How,
) -> ShardPlan:
    """Return the old plan if it still fits, or read the source for a new one."""
    if old is not None and _still_fits(flags, old, is_made, source, choices):
        return old
    asked = (choices.columns, flags.limit_rows, flags.skip_bad_rows, flags.rows_per_shard)
    with shown_scan() as progress, source.shown_errors():
        plan = scan(
            source,
            *asked,
            choices.template,
            progress,
            choices.encoder,
            _val_rows(flags, source),
            texts,
            how()._replace(loses=choices.tokenizer.loses),
        )
    return replace(
        plan,
        val_hashes=_val_hashes(flags, plan),
        files=[replace(f, url=absolute(f.url)) for f in plan.files],
        template_typed=_place(flags.template),
        long_rows=choices.long_rows,
    )


def _val_hashes(flags: Preprocess, plan: ShardPlan) -> list[str]:
    """Return which rows validate; refuse more than there are, or all that is trained on."""
    number, rows = plan.val_rows, plan.num_rows - plan.num_bad_rows
    if number is None or number < rows:
        return plan.val_hashes
    if flags.val_source is None or number > rows:
        most = "fewer than" if flags.val_source is None else "at most"
        raise ConfigError(
            f"--val-rows must be {most} the {counted(rows, 'row')} of {plan.source}, got {number:,}."
        )
    return EVERY_HASH


def _place(template: str) -> str:
    return template if template in TEMPLATES else absolute(template)


def _work(
    flags: Preprocess,
    words: Sequence[str],
    store: Store,
    plan: ShardPlan,
    old: ShardPlan | None,
    about: Sequence[str],
    tokenizer: Tokenizer,
) -> Work:
    def discard() -> None:
        store.remove("manifest.json")  # first: from here on nobody takes the old shards for these
        for folder in (*SPLITS, TOKENIZER_FOLDER):
            store.remove(folder)

    def ready() -> str:
        manifest = load_manifest(store)
        return (
            f"Shards are ready in {store.url}: {counted(manifest.train_rows, 'row')} and "
            f"{counted(manifest.train_tokens, 'token')} to train on, "
            f"{counted(manifest.val_rows, 'row')} to validate."
        )

    return Work(
        job=PreprocessJob(store.url, flags.array.num_tasks, encoder=flags.encoder),
        plan=plan,
        old=old,
        what="Shards",
        where=store.url,
        name=f"shards-{store.url.rsplit('/', 1)[-1]}",
        about=[*about, *mixture_lines(plan), *about_plan(plan, old)],
        discard=discard,
        provide=lambda: write_tokenizer(tokenizer, store / TOKENIZER_FOLDER),
        ready=ready,
        next_step=f"See: {command('status')}; train as soon as they are there: "
        f"{command('finetune', '--shards', shown_path(store.url))}",
        flags=flags,
        words=words,
    )
