"""
The command that makes a shard set, for those who miss one: another command would make other data.

    command_that_makes(Store("shards/mine"))
    # python launch/preprocess.py --source rows.jsonl --out shards/mine --limit-rows 500
"""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from instruct_core.data.template import BASE
from instruct_core.errors import CorruptFileError
from instruct_core.storage.documents import load_document
from instruct_core.storage.store import Store

BUILTIN = "builtin"
GPT2 = "gpt2"  # the tokenizer where none is named


def command_that_makes(
    store: Store,
    out: str | None = None,
    tokenizer: str | None = None,
    has_template: bool = True,
) -> str:
    """
    Return the command that makes a shard set again, from the plan that lies in it.

    Args:
        store: The set; where it has no plan, the source is left for the person to fill in.
        out: The set as the person names it, if not by its whole place.
        tokenizer: Another one than it was made with.
        has_template: Whether that one brings a chat template; chatml stands for a missing one.
    """
    try:
        plan = load_document(store, "plan.json")
    except (FileNotFoundError, CorruptFileError):
        plan = {}
    sources = plan.get("sources", [plan])
    held_out = sources[-1] if plan.get("held_out") else None
    words = ["python", "launch/preprocess.py"]
    for source in sources[:-1] if held_out else sources:
        words += ["--source", _from_here(source)]
    if plan.get("weights"):
        words += [
            "--weights",
            ",".join(str(weight).removesuffix(".0") for weight in plan["weights"]),
        ]
    if held_out:
        words += ["--val-source", _from_here(held_out)]
    if len(sources) > 1:  # whose columns are always detected
        plan = sources[0] | {"columns": None}
    words += ["--out", store.url if out is None else out, *_choices(plan, has_template)]
    if (val_rows := (held_out or plan).get("val_rows")) is not None:
        words += ["--val-rows", str(val_rows)]
    own = (plan.get("own_tokenizer") or {}).get("place", GPT2)
    if (tokenizer or own) != GPT2:
        words += ["--tokenizer", tokenizer or own]
    return shlex.join(words)


def _from_here(plan: dict[str, Any]) -> str:
    """Return a source as it was typed; by its whole place, where that was in another folder."""
    typed = str(plan.get("source", "SOURCE"))
    fixed = re.split(r"[*?\[{]", typed, maxsplit=1)[0]
    for url in (str(file.get("url")) for file in plan.get("files", ())):
        folder, found, _ = url.rpartition(f"/{fixed}")
        if found and fixed and _was_typed_elsewhere(Path(folder), fixed):
            return f"{folder}/{typed}"
    return typed


def _was_typed_elsewhere(folder: Path, source: str) -> bool:
    """Return True if a source is seen in another folder than this one; it may be nobody's to see."""
    with suppress(
        OSError
    ):  # a set is read by many who may not enter the home that it was made from
        return (folder / source).exists() and not folder.samefile(Path.cwd())
    return False


def _choices(plan: dict[str, Any], has_template: bool) -> list[str]:
    words: list[str] = []
    # Columns that are named by hand would let rows pass that the detected ones have refused.
    if plan.get("columns") and plan["source"] != BUILTIN and not plan.get("refused"):
        words += ["--columns", str(plan["columns"])]
    if plan.get("limit_rows") is not None:
        words += ["--limit-rows", str(plan["limit_rows"])]
    if plan.get("template_text"):
        typed = str(plan["template_typed"])
        words += ["--template", "chatml" if typed == BASE and not has_template else typed]
    if "long_rows" in plan:
        words += ["--long-rows", str(plan["long_rows"])]
    return [*words, "--skip-bad-rows"] if plan.get("skip_bad_rows") else words
