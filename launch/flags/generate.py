"""What can be typed after launch/generate.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from instruct_core.answers.sampling import Sampling
from instruct_core.recipe import RARE
from launch.flags.array import ArrayFlags
from launch.flags.run import ModelFlags
from launch.flags.slurm import SlurmFlags
from launch.flags.values import PATH, TEXT


@dataclass(frozen=True)
class Generate:
    """
    Answer every question of a file, as an array of tasks.

    The answers come in the order of the questions, and are the same for any number of tasks. Run it
    again, and only what is missing or damaged is made.
    """

    source: Annotated[str, PATH]
    """Questions: a path, glob or URL of .json, .jsonl, .csv, .tsv or .parquet files (or their .gz),
    whose rows have instruction, prompt or question (and input or context), or messages."""
    out: Annotated[str, PATH]
    """File or URL to write: JSON lines, each the question's row with its answer."""
    model: Annotated[ModelFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=ModelFlags)
    """Who answers: a checkpoint of a run, or a model that lies anywhere."""
    columns: Annotated[str | None, TEXT] = None
    """Where the questions are, as instruction=NAME[,input=NAME] or messages=NAME (default:
    detected)."""
    answer_column: str = "answer"
    """Name of the answer in each line."""
    limit_rows: int | None = None
    """Take only so many rows from the start."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    batch_size: int = 16
    """Questions answered side by side."""
    sampling: Annotated[Sampling, tyro.conf.OmitArgPrefixes] = field(default_factory=Sampling)
    """How words are chosen."""
    array: Annotated[ArrayFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=ArrayFlags)
    """How the tasks run; what they make is the same for any number of them."""
    slurm: Annotated[SlurmFlags, tyro.conf.OmitArgPrefixes] = field(default_factory=SlurmFlags)
    """What every task asks of Slurm: a GPU, where the partition has any."""
    rows_per_part: Annotated[int, RARE] = 128
    """Rows of a part, which is what a killed task loses at most."""
