"""
A folder that tasks are to fill, and that has things of others in it: they could go with what tasks made.

    refuse_other_things("data", Store("data"), OF_SHARDS)       # raises ConfigError

A set that is made from something else is made anew in its folder, and the old one removed: `train/` and
`val/` of somebody who has rows there must not be taken for it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from instruct_core.data.columns import shown_names
from instruct_core.data.shards import SPLITS
from instruct_core.data.tokenizer_files import TOKENIZER_FOLDER
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store

HEADS = {"plan.json", "manifest.json"}


class Made(NamedTuple):
    """What a work leaves in its folder: names, as patterns."""

    before_the_plan: re.Pattern[str]
    behind_it: re.Pattern[str]


OF_SHARDS = Made(
    re.compile(f"source|{TOKENIZER_FOLDER}"), re.compile("|".join((*SPLITS, *HEADS, "job")))
)
OF_ANSWERS = Made(re.compile("source"), re.compile(r"\d{5,}\.jsonl?|job|plan\.json|manifest\.json"))


def refuse_other_things(out: str, store: Store, made: Made) -> None:
    """
    Refuse a folder that has no plan, and other things than a killed try leaves.

    Args:
        out: As typed.
        store: The folder.
        made: What is made in it.

    Raises:
        ConfigError: Names some of what is there.
    """
    names = store.contents()
    if HEADS & set(names):  # a plan that was damaged
        names = [name for name in names if not made.behind_it.fullmatch(name)]
    if others := [name for name in names if not made.before_the_plan.fullmatch(name)]:
        raise ConfigError(
            f"--out {out} is in use: {store.url} has other things in it ({shown_names(others)}), and no "
            "plan of this command. Give another place: nothing else is overwritten."
        )
