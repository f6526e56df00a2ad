"""What can be typed after launch/evaluate.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from launch.flags.run import ModelFlags
from launch.flags.values import PATH


@dataclass(frozen=True)
class Evaluate:
    """Compare a model with the one that it was trained from; write a report."""

    model: Annotated[ModelFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelFlags)
    """What is evaluated: a checkpoint of a run, or a model that lies anywhere."""
    shards: Annotated[str | None, PATH] = None
    """Path or URL of the shard set whose validation split is read (default: the run's)."""
    base: Annotated[str | None, PATH] = None
    """What to compare with: as --checkpoint, or "random" (default: what the run began from)."""
    rows: int = 50
    """Rows of the validation split to answer, the same each time; losses are taken over all rows."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    out: Annotated[str | None, PATH] = None
    """Path or URL of the report's folder; a report that is there is replaced (default: beside the
    run's curves, runs_instruct/RUN/evaluation-step-00000100 for step 100)."""
