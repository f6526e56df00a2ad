"""
From a file of questions to a file of answers: check every row here, then let an array of tasks answer.

    exit_code = answer_file(Generate(source="questions.jsonl", out="answers.jsonl"))

Answers that are there and verify are kept; answers that were made in another way are never
overwritten.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace

from instruct_core.answers.line import FACTS, TOO_LONG
from instruct_core.answers.plan import AnswerPlan, Settings, scan_prompts
from instruct_core.data.columns import parse_columns
from instruct_core.data.model_template import template_of_model
from instruct_core.data.records import ending_of
from instruct_core.data.sources import BUILTIN, Source, resolve_files
from instruct_core.data.tokenizer import tokenizer_of_model
from instruct_core.data.unpacking import COMPRESSIONS
from instruct_core.errors import ConfigError
from instruct_core.recipe import Kept, refuse_kept
from instruct_core.storage.documents import load_sealed
from instruct_core.storage.store import Store
from jobs.generate import GenerateJob, place_of
from launch.arrays.array import make
from launch.arrays.other_things import OF_ANSWERS, refuse_other_things
from launch.arrays.work import Work, here_because, shown_scan
from launch.cluster.gpus import Gpus, check_torch_sees, gpu_names, visible_gpus
from launch.cluster.machine import Choice, choose_cluster
from launch.cluster.request import Request, request_of
from launch.console.commands import command
from launch.console.lines import counted, note
from launch.flags.array import check_array_flags
from launch.flags.generate import Generate
from launch.flags.parse import check_counts
from launch.flags.run import check_model_flags
from launch.flags.slurm import check_slurm_flags
from launch.runs.hub import model_place
from launch.runs.model import inspect_weights
from launch.runs.places import absolute, check_folder, check_url
from launch.runs.run import Run

NOT_ANSWERS = ("csv", "tsv", "parquet", *COMPRESSIONS)  # endings that say another kind of file


def answer_file(flags: Generate, words: Sequence[str] = ()) -> int:
    """
    Answer the questions of a file; return the exit code.

    Args:
        flags: What the person typed.
        words: The same as they were typed.
    """
    _check(flags)
    if flags.out.endswith("/") or not flags.out:
        raise ConfigError(f"--out must name a file, got {flags.out}. Use {flags.out}answers.jsonl")
    out = absolute(flags.out)
    store = Store(f"{out}.parts")
    if store.is_local:
        check_folder("--out", flags.out, store.local_path(""), num_bytes=0)
    check_url("--out", out.rpartition("/")[0], writes=not flags.array.dry_run)
    choice = choose_cluster(flags.array.cluster, flags.slurm.clusters)
    request = request_of(flags.slurm) if choice.cluster == "slurm" else None
    gpus = visible_gpus() if request is None else Gpus(0)
    if gpus.number:
        check_torch_sees(gpus.number)
    _check_kept(flags.model.weights, request, gpus)
    old = GenerateJob(out, flags.array.num_tasks).plan_if_there()
    if old is None:
        refuse_other_things(flags.out, store, OF_ANSWERS)
    with tempfile.TemporaryDirectory() as scratch:
        # A dry run writes nothing, not even a source that is unpacked.
        place = Store(scratch) if flags.array.dry_run else store
        plan = _plan(flags, resolve_files(flags.source, place), old)
        _refuse_other_answers(flags, plan, old, out)
        work = _work(flags, words, plan, old, out, choice, gpu_names(gpus.number))
        return make(work, flags.array, flags.slurm, request, parallelism_here=1)


def _check(flags: Generate) -> None:
    check_counts(flags, "limit_rows", "max_new_tokens", "batch_size", "rows_per_part")
    check_array_flags(flags.array)
    if not flags.answer_column.strip() or flags.answer_column in FACTS:
        raise ConfigError(
            f"--answer-column must be a name of its own, got {flags.answer_column!r}."
        )
    if (ending := ending_of(flags.out)) in NOT_ANSWERS:
        raise ConfigError(
            f"--out {flags.out} ends in .{ending}, and answers are JSON lines. Name it as in "
            "answers.jsonl."
        )
    if flags.source == BUILTIN:
        raise ConfigError(
            f"--source {flags.source} must be a file of questions: a path, a glob or a URL."
        )
    flags.sampling.check()
    check_slurm_flags(flags.slurm)
    check_model_flags(flags.model)


def _check_kept(kept: Kept, request: Request | None, here: Gpus) -> None:
    """Refuse weights that tasks cannot keep so where they run; see `refuse_kept`."""
    if request is None:
        refuse_kept(kept, bool(here.number), here.has_bf16, "this machine")
    else:
        where = f"partition {request.partition}"
        refuse_kept(kept, bool(request.gpus_per_node), request.has_bf16, where)


def _plan(flags: Generate, source: Source, old: AnswerPlan | None) -> AnswerPlan:
    columns = parse_columns(flags.columns, is_answered=False) if flags.columns else None
    model = _model(flags, old)
    weights = inspect_weights(model)
    settings = Settings(
        model=absolute(model),
        model_xxh3=weights.xxh3,
        max_new_tokens=flags.max_new_tokens,
        sampling=flags.sampling,
        batch_size=flags.batch_size,
        answer_column=flags.answer_column,
        positions=weights.shape.trained_positions,
        weights=flags.model.weights,
    )
    tokenizer = tokenizer_of_model(settings.model)
    template = template_of_model(settings.model, tokenizer)
    asked = (columns, flags.limit_rows, flags.rows_per_part, settings, template)
    with shown_scan() as progress, source.shown_errors():
        plan = scan_prompts(source, *asked, progress, tokenizer.identity)
    plan = plan if old is None else plan.as_begun(old)
    return replace(plan, files=[replace(f, url=absolute(f.url)) for f in plan.files])  # for tasks


def _model(flags: Generate, old: AnswerPlan | None) -> str:
    if flags.model.checkpoint is not None:
        return model_place("--checkpoint", flags.model.checkpoint)
    run = Run.find(flags.model.run, flags.model.checkpoints, flags.model.runs)
    # A run that went on meanwhile has newer steps; what was begun is finished with the same one.
    begun = old.settings.model if old is not None else ""
    is_open = flags.model.step == "newest"
    if is_open and begun.rpartition("/")[0] == run.store.url and Store(begun).names():
        return begun
    return run.step_place(run.good_step(flags.model.step, note))


def _refuse_other_answers(
    flags: Generate, plan: AnswerPlan, old: AnswerPlan | None, out: str
) -> None:
    folder, name = place_of(out)
    if old is None:
        if folder.exists(name):
            raise ConfigError(
                f"--out {flags.out} is there, and was not made by this command. Give another name: "
                "nothing is overwritten."
            )
        return
    if changes := plan.changes_since(old):
        raise ConfigError(
            f"--out {flags.out} was made, or begun, in another way ({'; '.join(changes)}). Give "
            f"another name, or remove it and {flags.out}.parts."
        )


def _kept(plan: AnswerPlan) -> str:
    kept = plan.settings.weights
    return "" if kept == "fp32" else f", weights kept as {kept}"


def _limit(plan: AnswerPlan) -> str:
    """Return what a person should know of a model that is not trained on all its positions."""
    positions = plan.settings.positions
    if positions is None:
        return ""
    return (
        f", trained on {positions:,} positions: a question and its answer have so many tokens at most, "
        f"and a question that leaves no room is {TOO_LONG}"
    )


def _work(
    flags: Generate,
    words: Sequence[str],
    plan: AnswerPlan,
    old: AnswerPlan | None,
    out: str,
    choice: Choice,
    gpus: Sequence[str],
) -> Work:
    at_a_time = flags.array.array_parallelism or max(1, len(gpus))
    tasks_here = 1 if choice.cluster == "slurm" else at_a_time
    job = GenerateJob(out, flags.array.num_tasks, tasks_here=tasks_here)

    def ready() -> str:
        manifest = load_sealed(job.store, "manifest.json")
        speed = manifest["new_tokens"] / max(manifest["seconds"], 1e-9)
        return (
            f"Answers are ready in {flags.out}: {counted(manifest['rows'], 'row')}, "
            f"{counted(manifest['new_tokens'], 'new token')}, {speed:,.0f} tokens/s a task."
        )

    return Work(
        job=job,
        plan=plan,
        old=old,
        what="Answers",
        where=flags.out,
        name=f"answers-{out.rpartition('/')[2]}",
        about=[
            *here_because(choice.why),
            f"Source: {plan.source}, {counted(plan.num_rows, 'row')}; columns {plan.reading}",
            f"Model: {plan.settings.model}{_kept(plan)}{_limit(plan)}",
        ],
        discard=lambda: None,  # answers of another plan were refused
        provide=lambda: None,
        ready=ready,
        next_step=f"See how many parts are there: {command('generate', '--follow')} with the same "
        f"flags; the answers will be in {flags.out}",
        flags=flags,
        words=words,
        reads=[plan.settings.model],
        gpus=gpus,
    )
