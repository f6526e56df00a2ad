"""
The parts of a batch inference on disk: which are there, which are right, and all as one file.

    missing_parts(store, plan)                    # [7, 12]
    join_parts(store, plan, out, "answers.jsonl")

No torch: launchers count parts too.
"""

from __future__ import annotations

from typing import Any

import xxhash

from instruct_core.answers.plan import AnswerPlan
from instruct_core.errors import CorruptFileError
from instruct_core.storage.documents import load_sealed, seal
from instruct_core.storage.store import Store


def part_name(part: int, ending: str) -> str:
    """Return the file name of a part's lines ("jsonl") or its document ("json")."""
    return f"{part:05d}.{ending}"


def missing_parts(store: Store, plan: AnswerPlan) -> list[int]:
    """Return the parts whose document is not there, by name alone."""
    there = set(store.names())
    return [part for part in range(plan.num_parts) if part_name(part, "json") not in there]


def read_part(store: Store, plan: AnswerPlan, part: int) -> tuple[dict[str, Any], bytes] | None:
    """Return a part's document and its lines; None unless both are of this plan and verify."""
    try:
        document = load_sealed(store, part_name(part, "json"))
        right = document["fingerprint"] == plan.fingerprint and document["part"] == part
        lines = store.read(part_name(part, "jsonl"))
    except (FileNotFoundError, CorruptFileError, KeyError):
        return None
    right = right and xxhash.xxh3_128_hexdigest(lines) == document["lines_xxh3"]
    return (document, lines) if right else None


def join_parts(store: Store, plan: AnswerPlan, out: Store, name: str) -> bool:
    """
    Verify every part and write all as one file, then the manifest; False if a part is not right.

    Two tasks that do it at once write the same bytes.
    """
    documents, lines = [], []
    for part in range(plan.num_parts):
        if (found := read_part(store, plan, part)) is None:
            return False
        documents.append(found[0])
        lines.append(found[1])
    data = b"".join(lines)
    out.replace(name, data)
    manifest = {
        "format": 1,
        "fingerprint": plan.fingerprint,
        "rows": plan.num_rows,
        "new_tokens": sum(document["new_tokens"] for document in documents),
        "seconds": round(sum(document["seconds"] for document in documents), 3),
        "lines_xxh3": xxhash.xxh3_128_hexdigest(data),
    }
    store.replace("manifest.json", seal(manifest))
    return True


def joined(store: Store, plan: AnswerPlan, out: Store, name: str) -> dict[str, Any] | None:
    """Return the manifest if the file of all answers is there and right."""
    try:
        manifest = load_sealed(store, "manifest.json")
        right = manifest["fingerprint"] == plan.fingerprint
        return manifest if right and out.digest(name) == manifest["lines_xxh3"] else None
    except (FileNotFoundError, CorruptFileError, KeyError):
        return None
