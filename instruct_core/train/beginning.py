"""
What a rank begins with: the model on the host, what a checkpoint says of it, and the moments of another
run's step if it keeps them.

    beginning = begin(config, loaded)
    beginning.model, beginning.moments

A run that is held to the hash of its first weights begins with no others. One that trains adapters needs
its base at every start: that is read anew, and compared with the hash in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from instruct_core.checkpoints.loader import Loaded, load_step
from instruct_core.checkpoints.manifest import WITH_BASE
from instruct_core.config import TrainConfig
from instruct_core.data.gpt2_tokenizer import VOCAB_SIZE
from instruct_core.errors import RunConflictError
from instruct_core.lora_settings import Base, Lora
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.model.halves import HALVES
from instruct_core.shape import Shape, config_file, usable_positions, with_trained
from instruct_core.storage.store import Store


class Beginning(NamedTuple):
    """What the trainer is given; the weights of a checkpoint that is loaded come later."""

    model: Model
    config_file: Mapping[str, Any]  # content of config.json, or of adapter_config.json
    facts: Mapping[str, Any]  # that every manifest has for it
    moments: Mapping[str, Tensor]  # by name, as in a checkpoint


def begin(
    config: TrainConfig,
    loaded: Loaded | None,
    patience: float = 0.0,
    vocab_size: int = VOCAB_SIZE,
) -> Beginning:
    """
    Return what a rank begins with.

    Args:
        config: Of the run.
        loaded: The checkpoint that it goes on from, if it has one.
        patience: Seconds with a store that does not answer.
        vocab_size: Of random weights: their tokenizer's.

    Raises:
        MissingError: What it begins with, or its base, is not there any more.
        RunConflictError: It has changed since the run was begun.
    """
    if config.adapter is not None:
        return _with_adapters(config, config.adapter, loaded, patience, vocab_size)
    moments: Mapping[str, Tensor] = {}
    if loaded is not None:
        model = build(loaded.manifest.model, config.dropout)
    else:
        model, _ = _first(config, vocab_size)
        moments = _moments(config, patience)
    model.config = _as_trained(config, model.config)
    return Beginning(model, config_file(model.config), {}, moments)


def _as_trained(config: TrainConfig, shape: Shape) -> Shape:
    """Return the shape with the positions that the run's sequences train, beside those of before."""
    before = 0 if config.init == "random" else usable_positions(shape)
    return with_trained(shape, max(before, config.seq_len))


def _first(config: TrainConfig, vocab_size: int) -> tuple[Model, str]:
    """Return the model that the run begins with, and the hash of its weights if one is asked for."""
    from instruct_core.model.weights import first_model, hash_weights  # no resume needs them

    shape = (config.init, config.model, config.seed, config.seq_len, config.dropout, vocab_size)
    model = first_model(*shape)
    found = hash_weights(model.state_dict()) if config.init_xxh3 or config.adapter else ""
    if config.init_xxh3 and found != config.init_xxh3:
        raise RunConflictError(
            f"Weights {config.init} are not those that run {config.run} was begun with: xxh3 "
            f"{found[:12]}, expected {config.init_xxh3[:12]}. Put the old ones back, or begin another "
            "--run."
        )
    return model, found


def _moments(config: TrainConfig, patience: float) -> Mapping[str, Tensor]:
    """Return the moments of the step that the run begins with, if it keeps them."""
    if not config.keep_optimizer:
        return {}
    assert config.init_step is not None, "the launcher takes no moments of anything else"
    source = Store(config.init.rpartition("/")[0], patience)
    return load_step(source, config.init_step).optimizer


def _with_adapters(
    config: TrainConfig, lora: Lora, loaded: Loaded | None, patience: float, vocab_size: int
) -> Beginning:
    from instruct_core.model.lora import adapter_file

    moments: Mapping[str, Tensor] = {}
    if loaded is None:
        model, base = _first_adapted(config, lora, vocab_size)
        moments = _moments(config, patience)
    else:
        assert loaded.manifest.base is not None, "its identity has been compared"
        base = loaded.manifest.base
        model = _adapted(config, lora, _where_it_is(base, config))
        model.config = _as_trained(config, loaded.manifest.model)
    file = adapter_file(model, lora, base, config.dropout)
    return Beginning(model, file, {"base": base, "format": WITH_BASE}, moments)


def _first_adapted(config: TrainConfig, lora: Lora, vocab_size: int) -> tuple[Model, Base]:
    """
    Return the model of a new run, and its base.

    A step of a run with adapters of the same kind is gone on with on its own base; any other weights
    are a base themselves.
    """
    from instruct_core.model.adapters import find_adapter
    from instruct_core.model.lora import adapt, draw, load_saved, saved_tensors

    model, found = _first(config, vocab_size)
    shape = model.config = _as_trained(config, model.config)
    adapt(model, lora, config.dropout, HALVES.get(config.precision))
    if config.init == "random":
        draw(model, config.seed)
        return model, Base(config.init, found, config.model, config.seed, vocab_size)
    source = find_adapter(config.init)
    is_same = (
        source is not None
        and (source.lora.rank, source.lora.alpha) == (lora.rank, lora.alpha)
        and source.tensors.keys() == saved_tensors(model).keys()
    )
    if source is None or not is_same:
        draw(model, config.seed)
        return model, Base(config.init, found)
    model = _adapted(config, lora, source.base)
    model.config = shape
    load_saved(model, source.tensors)
    return model, source.base


def _adapted(config: TrainConfig, lora: Lora, base: Base) -> Model:
    """Return a base with adapters, which are still to be loaded."""
    from instruct_core.model.lora import adapt
    from instruct_core.model.weights import load_base

    shape, weights = load_base(base, f"run {config.run}")
    model = build(shape, config.dropout)
    model.load_state_dict(weights)
    adapt(model, lora, config.dropout, HALVES.get(config.precision))
    return model


def _where_it_is(base: Base, config: TrainConfig) -> Base:
    """Return the base where it lies now: the project may have been moved, and the launcher knows."""
    is_init = base.xxh3 == config.init_xxh3
    return Base(config.init, base.xxh3) if is_init and base.place != "random" else base
