"""
From a source to a finished shard set: check every row here, then let an array of tasks write.

    exit_code = prepare(Preprocess(source="builtin", out="shards/builtin"))

What is there and verifies is kept. A changed source, template or tokenizer is named, and then all
shards are made anew: the manifest goes first, so old and new are never taken for one set.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from instruct_core.data.columns import Columns, parse_columns
from instruct_core.data.fast_tokenizer import choose_tokenizer
from instruct_core.data.plan import (
    BLOCK_ROWS,
    Plan,
    default_rows_per_shard,
    scan,
)
from instruct_core.data.ranges import stat_files
from instruct_core.data.shards import SPLITS, is_written, load_manifest, missing_shards
from instruct_core.data.sources import BUILTIN, Source, resolve_source
from instruct_core.errors import ConfigError, CorruptFileError, MissingError
from instruct_core.names import PLAIN_NAME
from instruct_core.storage.documents import dump_document, load_document
from instruct_core.storage.store import Store
from jobs.preprocess import PreprocessJob
from launch.arrays.array import Work, carry_out, follow_array, show
from launch.cluster.job_folder import array_parent
from launch.cluster.machine import choose_cluster, num_cores
from launch.cluster.request import Request, request_of
from launch.cluster.slurm import running_array
from launch.console.display import progress_bar
from launch.console.lines import say
from launch.flags.parse import check_counts
from launch.flags.preprocess import Preprocess
from launch.flags.slurm import check_slurm_flags
from launch.runs.places import absolute, check_url


def prepare(flags: Preprocess) -> int:
    """Make a shard set; return the exit code."""
    check_counts(flags, "num_tasks", "limit_rows", "array_parallelism", "rows_per_shard")
    if flags.rows_per_shard is not None and flags.rows_per_shard % BLOCK_ROWS:
        raise ConfigError(
            f"--rows-per-shard must be a multiple of {BLOCK_ROWS}, got {flags.rows_per_shard}."
        )
    check_slurm_flags(flags.slurm)
    columns = parse_columns(flags.columns) if flags.columns else None
    if flags.source == BUILTIN and columns:
        raise ConfigError("--columns does not go with --source builtin, whose columns are known.")
    out = flags.out or f"shards/{Path(flags.source).name.split('.')[0]}"
    if flags.out is None and not PLAIN_NAME.fullmatch(Path(out).name):
        raise ConfigError(f"--out must be given with --source {flags.source}: it names no folder.")
    choose_tokenizer(flags.tokenizer)  # raises here rather than in every task
    check_url("--out", absolute(out), writes=not flags.dry_run)
    cluster, _ = choose_cluster(flags.cluster)
    request = request_of(flags.slurm, wants_gpus=False) if cluster == "slurm" else None
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(absolute(out))
        # A dry run writes nothing, not even a source that is made or downloaded.
        source = resolve_source(flags.source, Store(scratch) if flags.dry_run else store)
        return _prepare(flags, store, source, columns, request)


def _prepare(
    flags: Preprocess,
    store: Store,
    source: Source,
    columns: Columns | None,
    request: Request | None,
) -> int:
    old = _old_plan(store)
    plan = _unchanged(old, flags, source, str(columns or ""))
    if plan is None:
        with progress_bar("Checking rows") as bar:
            task = bar.add_task("", total=None)
            plan = scan(
                source,
                columns,
                flags.limit_rows,
                flags.skip_bad_rows,
                flags.rows_per_shard,
                progress=lambda rows: bar.update(task, completed=rows),
            )
    work = _work_of(flags, store, plan)
    if (job := running_array(store)) is not None:
        if old is None or old.fingerprint != plan.fingerprint:
            raise ConfigError(
                f"Shards {store.url} are being made from something else by job {job.job_id}. "
                f"Wait for it, or end it: scancel {' '.join(job.job_ids)}"
            )
        say(f"Shards {store.url} are being made already: job {job.job_id}, {job.state()}.")
        return follow_array(work, job) if flags.follow else 0
    _report(plan, old)
    todo = _todo(store, plan)
    if flags.dry_run:
        say(f"Would write {len(todo)} of {plan.num_shards} shards into {store.url}:")
        show(work, todo, flags, request)
        return 0
    if not todo and _is_complete(store, plan):
        say(f"Shards {store.url} are complete: nothing to do.")
        return 0
    if old is not None and old.fingerprint != plan.fingerprint:
        store.remove("manifest.json")  # first: from here on nobody takes the old shards for these
        for split in SPLITS:
            store.remove(split)
    store.replace("plan.json", dump_document(plan.to_document()))
    return carry_out(work, todo, flags, request, parallelism_here=num_cores())


def _work_of(flags: Preprocess, store: Store, plan: Plan) -> Work:
    def report_ready() -> None:
        manifest = load_manifest(store)
        say(
            f"Shards are ready in {store.url}: {manifest['train_rows']:,} rows and "
            f"{manifest['train_tokens']:,} tokens to train on, {manifest['val_rows']:,} rows to "
            "validate."
        )

    return Work(
        what="Shards",
        parts="shards",
        name=f"shards-{store.url.rsplit('/', 1)[-1]}",
        parent=array_parent(store),
        num_parts=plan.num_shards,
        task=lambda first: PreprocessJob(store.url, flags.num_tasks, first, flags.tokenizer),
        num_missing=lambda: len(missing_shards(store, plan)),
        is_ready=lambda: store.exists("manifest.json"),
        report_ready=report_ready,
        next_step="See: python launch/status.py; train as soon as they are there: "
        f"python launch/finetune.py --shards {store.url}",
    )


def _old_plan(store: Store) -> Plan | None:
    try:
        return Plan.from_document(load_document(store, "plan.json"))
    except (FileNotFoundError, CorruptFileError, KeyError, TypeError):
        return None


def _unchanged(old: Plan | None, flags: Preprocess, source: Source, columns: str) -> Plan | None:
    """Return the old plan if the same command would make it again, judged without reading rows."""
    if old is None or (columns and columns != old.columns):
        return None
    rows_per_shard = flags.rows_per_shard or default_rows_per_shard(old.num_rows)
    asked = (source.identity, flags.limit_rows, flags.skip_bad_rows, rows_per_shard)
    planned = (old.identity, old.limit_rows, old.skip_bad_rows, old.rows_per_shard)
    same_files = stat_files(source.files) == old.stats
    fresh = Plan(**{**vars(old), **_current_names()})
    return old if asked == planned and same_files and fresh == old else None


def _current_names() -> dict[str, Any]:
    fields = Plan.__dataclass_fields__
    return {name: fields[name].default for name in ("template", "tokenizer")}


def _report(plan: Plan, old: Plan | None) -> None:
    say(f"Source: {plan.identity}, {plan.num_rows:,} rows; columns {plan.columns}")
    for bad in plan.bad_rows[:5]:
        say(f"  skipped {bad['where']}: {bad['problem']}")
    if len(plan.bad_rows) > 5:
        say(f"  and {len(plan.bad_rows) - 5} more; all are in the manifest")
    if old is None or old.fingerprint == plan.fingerprint:
        return
    for name, value in plan.parts.items():
        if (before := old.parts[name]) != value:
            say(f"Changed since these shards were made: {name}: {before} -> {value}")
    say("All shards are made anew.")


def _todo(store: Store, plan: Plan) -> list[int]:
    """Return the shards that are missing, stale or damaged; the damaged are named."""
    missing, was_complete = set(missing_shards(store, plan)), _is_complete(store, plan)
    todo = []
    for shard in range(plan.num_shards):
        if shard in missing:
            todo.append(shard)
        elif not is_written(store, plan, shard):
            todo.append(shard)
            if was_complete:
                say(f"Shard {shard} in {store.url} is damaged, and is made again.")
    return todo


def _is_complete(store: Store, plan: Plan) -> bool:
    try:
        return bool(load_manifest(store)["fingerprint"] == plan.fingerprint)
    except (MissingError, CorruptFileError):
        return False
