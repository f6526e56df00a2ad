"""
JSON documents: manifests, plans and run files, with one line an entry so that a diff reads well.

    store.claim("manifest.json", seal({"format": 1, "files": [{...}, {...}]}))

Reading refuses what nobody of us wrote: too large, not JSON, not an object, a key that stands twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xxhash

from instruct_core.errors import CorruptFileError
from instruct_core.storage.json_text import RepeatedKeyError, parse_json
from instruct_core.storage.store import Store

MAX_DOCUMENT_BYTES = 64 << 20  # 10^5 shards are 26 MB; parsed, JSON can take 20 times its size


def dump_document(document: Mapping[str, Any]) -> bytes:
    """Return JSON with one line a key, and one line an item of a list of objects."""
    lines = []
    for key, value in document.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            items = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value)
            text = f"[\n  {items}\n ]"
        lines.append(f"{json.dumps(key)}: {text}")
    # Half a letter, as of a name that is no UTF-8, becomes its number, which JSON reads back.
    return ("{\n " + ",\n ".join(lines) + "\n}\n").encode(errors="backslashreplace")


def load_document(store: Store, name: str) -> dict[str, Any]:
    """
    Return a document of a store.

    Raises:
        FileNotFoundError: It is not there.
        CorruptFileError: It is too large, no JSON object, or has a key twice.
    """
    where = store.where(name)
    data = store.read(name, at_most=MAX_DOCUMENT_BYTES + 1)  # whatever its size claims to be
    if len(data) > MAX_DOCUMENT_BYTES:
        raise CorruptFileError(
            f"{where} has more than {MAX_DOCUMENT_BYTES:,} bytes: no document of ours."
        )
    try:
        document = parse_json(data)
    except RepeatedKeyError as error:
        raise CorruptFileError(f"{where} says two things: {error}. Leave one of them.") from None
    except ValueError as error:
        raise CorruptFileError(f"{where} is no JSON: {error}.") from error
    if not isinstance(document, dict):
        raise CorruptFileError(f"{where} is no JSON object.")
    return document


def seal(document: Mapping[str, Any]) -> bytes:
    """Return a manifest's JSON with a hash of all it says: a flipped digit is noticed."""
    return dump_document({**document, "xxh3": fingerprint_of(document)})


def load_sealed(store: Store, name: str) -> dict[str, Any]:
    """Return the document of `seal`; raises as `load_document` does, also for another hash."""
    document = load_document(store, name)
    if document.pop("xxh3", None) != fingerprint_of(document):
        raise CorruptFileError(f"{store.where(name)} is corrupt: its own xxh3 differs.")
    return document


def fingerprint_of(value: Any) -> str:
    """Return a short hash of anything JSON can hold; equal values have equal fingerprints."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return str(xxhash.xxh3_128_hexdigest(text.encode()))
