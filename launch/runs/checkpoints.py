"""
What stands behind launch/checkpoints.py: a run's checkpoints, for a person to look at and to tidy.

    exit_code = show(Ls(run="my-run"))
"""

from __future__ import annotations

import time

from rich.table import Table

from instruct_core.checkpoints.attempts import newest_attempt
from instruct_core.checkpoints.manifest import Manifest
from instruct_core.checkpoints.retention import Keep, Retention, SpoiledError
from instruct_core.checkpoints.steps import (
    DAMAGED_FOLDER,
    committed_steps,
    damage_seen_twice,
    read_manifest,
    step_name,
    steps_of,
)
from instruct_core.errors import ConfigError, CorruptFileError
from instruct_core.recipe import flag_of
from instruct_core.shape import trained_said
from instruct_core.storage.store import Store
from launch.console.display import age, progress_bar, show_table
from launch.console.lines import EXIT_FAILED, note, say
from launch.flags.checkpoints import Export, Ls, Prune, Verify
from launch.runs.control import allowed
from launch.runs.places import absolute, check_folder, check_url
from launch.runs.run import Run

NOTHING = "No step is removed: {} stay"


def show(flags: Ls) -> int:
    """Print all checkpoints of a run, with sizes compared; return the exit code."""
    store = Run.find(flags.run, flags.checkpoints, flags.runs).store
    steps = committed_steps(store)
    _print(
        store,
        steps,
        {step: damage_seen_twice(store, step, every_byte=False) for step in steps},
        "sizes",
    )
    return 0


def verify(flags: Verify) -> int:
    """Read every byte of a run's checkpoints; return the exit code."""
    run = Run.find(flags.run, flags.checkpoints, flags.runs)
    store = run.store
    steps = committed_steps(store) if flags.step is None else [run.known_step(flags.step)]
    damages = {}
    with progress_bar("Checkpoints") as bar:
        for step in bar.track(steps):
            damages[step] = damage_seen_twice(store, step)
    _print(store, steps, damages, "every byte")
    return EXIT_FAILED if any(damages.values()) else 0


def prune(flags: Prune) -> int:
    """Remove what need not stay; return the exit code."""
    for name in ("keep", "keep_every"):
        value, least = getattr(flags, name), 1 if name == "keep" else 0
        if value is not None and value < least:
            raise ConfigError(f"{flag_of(name)} must be at least {least}, got {value}.")
    run = Run.find(flags.run, flags.checkpoints, flags.runs)
    store = run.store
    keep = Keep(
        run.config.keep_checkpoints if flags.keep is None else flags.keep,
        run.config.keep_every if flags.keep_every is None else flags.keep_every,
    )
    before, steps = _sizes(store), committed_steps(store)
    if not steps:
        say(f"Run {flags.run} has no checkpoint yet.")
        return 0
    retention = Retention(store)
    retention.attempt = newest_attempt(store)
    if flags.dry_run:
        doomed = retention.doomed(keep, newest=steps[-1])
        stay = _listed(sorted(set(steps) - set(doomed)))
        say(
            f"Would remove steps {_listed(doomed)}; {stay} stay" if doomed else NOTHING.format(stay)
        )
        return 0
    retention.raises_refusals = True
    aside = [name for name in store.names() if DAMAGED_FOLDER.match(name)] if flags.damaged else []
    with allowed(run):
        try:
            removed = retention.prune(keep, newest=steps[-1])
        except SpoiledError as error:
            raise ConfigError(f"{error}.") from None
        for name in aside:
            store.remove(name)
    for problem in removed.problems:
        say(f"Note: {problem}")
    if flags.damaged:
        say(f"Removed {len(aside)} damaged ones that were set aside")
    freed, stay = (
        sum(before.get(step, 0) for step in removed.steps),
        _listed(committed_steps(store)),
    )
    if removed.steps:
        say(f"Removed steps {_listed(removed.steps)}, {freed / 1e6:,.1f} MB; {stay} stay")
    else:
        say(NOTHING.format(stay))
    return EXIT_FAILED if removed.problems else 0


def export(flags: Export) -> int:
    """Write a Hugging Face folder, or PEFT's of a run with adapters; return the exit code."""
    run = Run.find(flags.run, flags.checkpoints, flags.runs)
    check_url("--out", flags.out, writes=True)
    target = Store(absolute(flags.out))
    if target.is_local:
        check_folder("--out", flags.out, target.local_path(""), num_bytes=0)
    step = run.good_step(flags.step, note)
    manifest = read_manifest(run.store, step)
    base = manifest.base
    what = f"Step {step} of run {flags.run} is in {target.url}"
    if base is not None and not flags.merge:
        from instruct_core.model.adapter_export import export_adapter

        export_adapter(run.store, step, target)
        say(f"{what}: PeftModel.from_pretrained loads it beside its base, {base.place}.")
        _say_trained(manifest)
        return 0
    if base is not None:
        from instruct_core.model.adapter_export import export_merged

        export_merged(run.store, step, target)
    elif flags.merge:
        raise ConfigError(
            f"--merge is for runs with --lora: a step of run {flags.run} is a whole model. Leave it out."
        )
    else:
        from instruct_core.model.hugging_face import export_folder

        export_folder(run.store, step, target)
    say(f"{what}: AutoModelForCausalLM and AutoTokenizer load it.")
    _say_trained(manifest)
    return 0


def _say_trained(manifest: Manifest) -> None:
    """Say of a model that is not trained on all its positions what others should not ask of it."""
    shape = manifest.model
    if limit := trained_said(shape):
        say(
            f"It was {limit}: give it no text of more than {shape.trained_positions:,} tokens, with the "
            "answer."
        )


def _sizes(store: Store) -> dict[int, int]:
    sizes = dict.fromkeys(steps_of(store), 0)
    names = {step_name(step): step for step in sizes}
    for file, size in store.tree().items():
        if (step := names.get(file.partition("/")[0])) is not None:
            sizes[step] += size or 0  # None is a folder's
    return sizes


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps)) or "none"


def _print(store: Store, steps: list[int], damages: dict[int, str], what: str) -> None:
    table = Table("step", "size", "age", "val loss", "verified", "attempt", box=None)
    for step in steps:
        try:
            cells = _cells(read_manifest(store, step))
        except (CorruptFileError, FileNotFoundError):
            cells = ("", "", "", "")
        size, since, loss, attempt = cells
        verified = "damaged" if damages[step] else what
        table.add_row(str(step), size, since, loss, verified, attempt)
    if steps:
        show_table(table)
        for damage in filter(None, damages.values()):
            say(damage)
    else:
        say("No checkpoint is committed yet.")
    for name in store.names():
        if DAMAGED_FOLDER.match(name):
            say(f"Set aside, because it was damaged: {store.where(name)}")
    for step, is_committed in steps_of(store).items():
        if not is_committed:
            say(f"Not committed, being written or left by a kill: {store.where(step_name(step))}")


def _cells(manifest: Manifest) -> tuple[str, str, str, str]:
    loss = manifest.val_loss
    return (
        f"{manifest.num_bytes / 1e6:,.1f} MB",
        age(time.time() - manifest.saved_at),
        "" if loss is None else f"{loss:.4f}",
        str(manifest.attempt),
    )
