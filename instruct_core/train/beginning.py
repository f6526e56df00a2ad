"""
What a rank begins with: the model on the host, and the moments of another run's step if it keeps them.

    beginning = begin(config, loaded)
    beginning.model, beginning.moments

A run that is held to the hash of its first weights begins with no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from instruct_core.checkpoints.loader import Loaded, load_step
from instruct_core.config import TrainConfig
from instruct_core.data.gpt2_tokenizer import VOCAB_SIZE
from instruct_core.errors import RunConflictError
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.storage.store import Store


class Beginning(NamedTuple):
    """What the trainer is given; the weights of a checkpoint that is loaded come later."""

    model: Model
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
        MissingError: What it begins with is not there any more.
        RunConflictError: It has changed since the run was begun.
    """
    if loaded is not None:
        return Beginning(build(loaded.manifest.model, config.dropout), {})
    from instruct_core.model.weights import first_model, hash_weights  # no resume needs them

    shape = (config.init, config.model, config.seed, config.seq_len, config.dropout, vocab_size)
    model = first_model(*shape)
    found = hash_weights(model.state_dict()) if config.init_xxh3 else ""
    if found != config.init_xxh3:
        raise RunConflictError(
            f"Weights {config.init} are not those that run {config.run} was begun with: xxh3 "
            f"{found[:12]}, expected {config.init_xxh3[:12]}. Put the old ones back, or begin another "
            "--run."
        )
    return Beginning(model, _moments(config, patience) if config.keep_optimizer else {})


def _moments(config: TrainConfig, patience: float) -> Mapping[str, Tensor]:
    """Return the moments of the step that the run begins with."""
    assert config.init_step is not None, "the launcher takes no moments of anything else"
    source = Store(config.init.rpartition("/")[0], patience)
    return load_step(source, config.init_step).optimizer
