"""
What a run that trains adapters is to a launcher: which projections, how many numbers, on which base.

    adapters = new_adapters(flags.recipe, weights)
    adapters.number                     # that are trained
    recipe = filled(flags.recipe, adapters)
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from instruct_core.checkpoints.manifest import Manifest
from instruct_core.config import TrainConfig
from instruct_core.errors import ConfigError, RunConflictError
from instruct_core.lora_settings import (
    ALPHA_PER_RANK,
    WEIGHTS_FILE,
    chosen,
    usual_targets,
)
from instruct_core.recipe import Recipe
from launch.runs.model import Weights, inspect_weights
from launch.runs.run import Run


class Adapters(NamedTuple):
    """Which projections get an adapter, and how many numbers are trained; none where all weights are."""

    targets: str = ""
    number: int = 0


def new_adapters(recipe: Recipe, weights: Weights) -> Adapters:
    """
    Return the adapters that a new run trains.

    Raises:
        ConfigError: The weights are random, --lora-targets names no projection of them, or the rank is
            above all that their matrices can have.
    """
    if recipe.lora is None:
        return Adapters()
    if not weights.xxh3:  # so they are random
        raise ConfigError(
            f"--lora {recipe.lora} adapts what a model knows, and random weights know nothing. Give "
            "--init with weights, or leave --lora out."
        )
    if recipe.lora > weights.shape.width:
        raise ConfigError(
            f"--lora must be at most {weights.shape.width}, the width of the base, got {recipe.lora}: a "
            "higher rank adds nothing. Leave --lora out to train all weights."
        )
    return _beside(recipe.lora_targets or usual_targets(weights.projections), recipe.lora, weights)


def _beside(targets: str, rank: int, weights: Weights) -> Adapters:
    """Return adapters of a rank beside the projections that are named."""
    names = chosen(targets, weights.projections)
    return Adapters(targets, rank * sum(weights.projections[name] for name in names))


def adapters_of_run(manifest: Manifest | None, stored: TrainConfig) -> Adapters:
    """
    Return the adapters of a run that has saved, after a look at the base that it needs.

    Raises:
        ConfigError: The base is not there.
        RunConflictError: It has other weights now.
    """
    base = manifest.base if manifest is not None else None
    if manifest is None or base is None:
        return Adapters()
    targets = stored.lora_targets or ""
    if base.place == "random":  # of which there is nothing to look at: a header counts too
        [size] = [entry.bytes for entry in manifest.files if entry.file == WEIGHTS_FILE]
        return Adapters(targets, size // 4)
    place = stored.init if base.xxh3 == stored.init_xxh3 else base.place
    found = inspect_base(place, stored.run)
    if found.xxh3 != base.xxh3:
        raise RunConflictError(
            f"Base {place} of run {stored.run} has other weights now (xxh3 {found.xxh3[:12]}, not "
            f"{base.xxh3[:12]}), and adapters fit no others. Put the old ones back."
        )
    return _beside(targets, stored.lora or 0, found)


def inspect_base(place: str, run: str) -> Weights:
    """Return a base after a look; raises ConfigError, which says what to do where it is not there."""
    try:
        return inspect_weights(place)
    except ConfigError as error:
        raise ConfigError(
            f"Base of run {run} cannot be loaded: {error} Put it back, or link it there: ln -s "
            f"WHERE_IT_IS {place}"
        ) from None


def filled(recipe: Recipe, adapters: Adapters) -> Recipe:
    """Return a recipe in which nothing about adapters is left open."""
    if recipe.lora is None:
        return recipe
    return replace(
        recipe,
        lora_alpha=recipe.lora_alpha or ALPHA_PER_RANK * recipe.lora,
        lora_targets=recipe.lora_targets or adapters.targets,
    )


def spelled_as_before(recipe: Recipe, known: Recipe) -> Recipe:
    """Return a recipe with the run's own spelling of its targets, whose order decides nothing."""
    typed, before = ((each.lora_targets or "").split(",") for each in (recipe, known))
    return replace(recipe, lora_targets=known.lora_targets) if set(typed) == set(before) else recipe


def check_moments(config: TrainConfig) -> None:
    """
    Refuse to keep moments of other weights than are trained.

    Raises:
        ConfigError: The run that it begins with trains others; says what it has.
    """
    source = Run.of_step(config.init) if config.keep_optimizer else None
    if source is not None and (theirs := source.config.adapter) != config.adapter:
        has = (
            "all weights"
            if theirs is None
            else f"--lora {theirs.rank} --lora-alpha {theirs.alpha:g} "
        )
        if theirs is not None:
            has += f"--lora-targets {theirs.targets}"
        raise ConfigError(
            f"--keep-optimizer needs the weights that run {source.name} trains: {has}. Train the same, "
            "or leave it out."
        )
