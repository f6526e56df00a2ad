"""
From a file of questions to a file of answers: check every row here, then let an array of tasks answer.

    exit_code = answer_file(Generate(source="questions.jsonl", out="answers.jsonl"))

Answers that are there and verify are kept; answers that were made in another way are never
overwritten.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace

from instruct_core.answers.parts import joined, missing_parts, read_part
from instruct_core.answers.plan import PromptPlan, Settings, scan_prompts
from instruct_core.data.columns import parse_columns
from instruct_core.data.sources import resolve_source
from instruct_core.errors import ConfigError, CorruptFileError
from instruct_core.storage.documents import dump_document, load_document, load_sealed
from instruct_core.storage.store import Store
from jobs.generate import GenerateJob, places_of
from launch.arrays.array import Work, carry_out, follow_array, show
from launch.cluster.job_folder import array_parent
from launch.cluster.machine import choose_cluster
from launch.cluster.request import request_of
from launch.cluster.slurm import running_array
from launch.console.display import progress_bar
from launch.console.lines import note, say
from launch.flags.generate import Generate
from launch.flags.parse import check_counts
from launch.flags.run import check_model_flags
from launch.flags.slurm import check_slurm_flags
from launch.runs.model import inspect_weights
from launch.runs.places import absolute, check_url
from launch.runs.run import Run


def answer_file(flags: Generate) -> int:
    """Answer the questions of a file; return the exit code."""
    _check(flags)
    if flags.out.endswith("/") or not flags.out:
        raise ConfigError(f"--out must name a file, got {flags.out}. Use {flags.out}answers.jsonl")
    out = absolute(flags.out)
    _, _, store = places_of(out)
    check_url("--out", out.rpartition("/")[0], writes=not flags.dry_run)
    cluster, _ = choose_cluster(flags.cluster)
    request = request_of(flags.slurm) if cluster == "slurm" else None
    old = _old_plan(store)
    plan = _plan(flags, old)
    _refuse_other_answers(flags, plan, old, out)
    work = _work(flags, plan, out, is_local=request is None)
    if (job := running_array(store)) is not None:
        say(f"Answers {flags.out} are being made already: job {job.job_id}, {job.state()}.")
        return follow_array(work, job) if flags.follow else 0
    todo = [part for part in range(plan.num_parts) if read_part(store, plan, part) is None]
    if flags.dry_run:
        say(f"Would make {len(todo)} of {plan.num_parts} parts of {flags.out}:")
        show(work, todo, flags, request)
        return 0
    if not todo and work.is_ready():
        say(f"Answers {flags.out} are complete: nothing to do.")
        return 0
    store.replace("plan.json", dump_document(plan.to_document()))
    return carry_out(work, todo, flags, request, parallelism_here=1)


def _check(flags: Generate) -> None:
    check_counts(flags, "num_tasks", "limit_rows", "max_new_tokens", "batch_size")
    check_counts(flags, "array_parallelism", "rows_per_part")
    if not flags.answer_column.strip() or flags.answer_column in ("finish_reason", "new_tokens"):
        raise ConfigError(
            f"--answer-column must be a name of its own, got {flags.answer_column!r}."
        )
    flags.sampling.check()
    check_slurm_flags(flags.slurm)
    check_model_flags(flags.model)


def _old_plan(store: Store) -> PromptPlan | None:
    try:
        return PromptPlan.from_document(load_document(store, "plan.json"))
    except (FileNotFoundError, CorruptFileError, KeyError, TypeError):
        return None


def _plan(flags: Generate, old: PromptPlan | None) -> PromptPlan:
    columns = parse_columns(flags.columns, is_answered=False) if flags.columns else None
    with tempfile.TemporaryDirectory() as scratch:
        source = resolve_source(flags.source, Store(scratch))
        if scratch in "".join(source.files):
            raise ConfigError(
                f"--source {flags.source} must be a file of questions: a path, a glob or a URL."
            )
    model = _model(flags, old)
    settings = Settings(
        model=absolute(model),
        model_xxh3=inspect_weights(model).xxh3,
        max_new_tokens=flags.max_new_tokens,
        sampling=flags.sampling,
        batch_size=flags.batch_size,
        answer_column=flags.answer_column,
    )
    with progress_bar("Checking rows") as bar:
        task = bar.add_task("", total=None)
        plan = scan_prompts(
            source,
            columns,
            flags.limit_rows,
            flags.rows_per_part,
            settings,
            progress=lambda rows: bar.update(task, completed=rows),
        )
    plan = replace(plan, files=[replace(f, url=absolute(f.url)) for f in plan.files])  # for tasks
    say(f"Source: {plan.source}, {plan.num_rows:,} rows; columns {plan.columns}")
    say(f"Model: {model}")
    return plan


def _model(flags: Generate, old: PromptPlan | None) -> str:
    if flags.model.checkpoint is not None:
        return flags.model.checkpoint
    run = Run.find(flags.model.run, flags.model.checkpoints)
    # A run that went on meanwhile has newer steps; what was begun is finished with the same one.
    begun = old.settings.model if old is not None else ""
    if begun.rpartition("/")[0] == run.store.url and Store(begun).names():
        return begun
    return run.step_place(run.newest_good_step(note))


def _refuse_other_answers(
    flags: Generate, plan: PromptPlan, old: PromptPlan | None, out: str
) -> None:
    folder, name, _ = places_of(out)
    if old is None:
        if folder.exists(name):
            raise ConfigError(
                f"--out {flags.out} is there, and was not made by this command. Give another name: "
                "nothing is overwritten."
            )
        return
    changes = [
        f"{key}: {old.choices[key]} -> {value}"
        for key, value in plan.choices.items()
        if old.choices[key] != value
    ]
    if changes:
        raise ConfigError(
            f"--out {flags.out} was made, or begun, in another way ({'; '.join(changes)}). Give "
            f"another name, or remove it and {flags.out}.parts."
        )


def _work(flags: Generate, plan: PromptPlan, out: str, is_local: bool) -> Work:
    folder, name, store = places_of(out)
    tasks_here = flags.array_parallelism or 1 if is_local else 1

    def report_ready() -> None:
        manifest = load_sealed(store, "manifest.json")
        speed = manifest["new_tokens"] / max(manifest["seconds"], 1e-9)
        say(
            f"Answers are ready in {flags.out}: {manifest['rows']:,} rows, "
            f"{manifest['new_tokens']:,} new tokens, {speed:,.0f} tokens/s a task."
        )

    return Work(
        what="Answers",
        parts="parts",
        name=f"answers-{name}",
        parent=array_parent(store),
        num_parts=plan.num_parts,
        task=lambda first: GenerateJob(out, flags.num_tasks, first, tasks_here),
        num_missing=lambda: len(missing_parts(store, plan)),
        is_ready=lambda: joined(store, plan, folder, name) is not None,
        report_ready=report_ready,
        next_step=f"See how many parts are there: python launch/generate.py --follow with the same "
        f"flags; the answers will be in {flags.out}",
    )
