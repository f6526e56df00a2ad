"""
Which model is meant, and what it is, before a job that needs it is queued. Launchers do not import
torch, so another process loads the weights.

    weights = inspect_weights("gpt2-folder")
    weights.shape.max_seq_len, weights.xxh3
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from instruct_core.config import shape_from
from instruct_core.errors import ConfigError
from instruct_core.shape import Shape


class Weights(NamedTuple):
    """The shape of a model, a hash of its weights, and what of it can be adapted."""

    shape: Shape
    xxh3: str
    projections: Mapping[str, int]  # inputs + outputs of each, by name


def inspect_weights(place: str, model: str = "", seq_len: int = 0) -> Weights:
    """
    Load a model once to see what it is.

    Args:
        place: Path or URL of a step folder, a Hugging Face folder or a .pt file.
        model: Preset that it must be, or "" for any.
        seq_len: Positions that it must have at least.

    Raises:
        ConfigError: It cannot be loaded, or does not fit, or memory does not suffice to see.
    """
    command = [sys.executable, "-m", "jobs.inspect_weights", place, model, str(seq_len)]
    # A group of its own: Ctrl-C ends the launcher, which ends it, and says nothing.
    done = subprocess.run(command, stdout=subprocess.PIPE, process_group=0, check=False)
    if done.returncode != 0:
        is_killed = done.returncode == -signal.SIGKILL
        how = "was killed, as for want of memory" if is_killed else f"ended with {done.returncode}"
        raise ConfigError(
            f"Model {place} cannot be looked at: the process that loads it {how}. Free some memory, or "
            "type this on a larger machine."
        )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ConfigError(answer["error"])
    return Weights(
        shape_from(answer["shape"], f"Model {place}"), answer["xxh3"], answer["projections"]
    )
