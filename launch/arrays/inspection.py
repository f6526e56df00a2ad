"""
Shows rows as a model will see them.

    inspect_set(Store("shards/mine"), Preprocess(inspect=5))

A line is tokens of one row. Before it stands the position of the first, and + where they are learnt; on
a terminal these are green.
"""

from __future__ import annotations

import json
from typing import Any

from instruct_core.data.inspection import Piece, lines_of, pieces_seen
from instruct_core.data.packing import packing_of
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.shards import SPLITS, ShardSet
from instruct_core.errors import MissingError
from instruct_core.recipe import Recipe
from instruct_core.storage.store import Store
from launch.console.display import show_line
from launch.console.lines import counted, say, say_whole
from launch.flags.preprocess import Preprocess

LEARNT = "green"


def inspect_set(store: Store, flags: Preprocess) -> int:
    """
    Show the first rows that a run on a finished shard set reads; return the exit code.

    Raises:
        MissingError: There is none.
    """
    if not store.exists("manifest.json"):
        raise MissingError(
            f"Shards {store.url} are not there or not finished: no manifest.json in it. Give --source to "
            "look at rows that no set has yet."
        )
    manifest, left = load_manifest(store), flags.inspect or 0
    for split in SPLITS:
        rows = ShardSet(store, split, manifest)
        packing = packing_of(rows, Recipe.seq_len, Recipe.seed)
        sequence = -1
        for piece in pieces_seen(rows, packing, Recipe.seed, left):
            if flags.json:
                say_whole(json.dumps(_document(split, piece, rows)))
                continue
            if piece.sequence != sequence:
                sequence = piece.sequence
                say(f"=== {split}, sequence {sequence}, --seq-len {packing.seq_len} ===")
            _show(piece, rows)
        left -= min(left, len(packing.rows))
    return 0


def _show(piece: Piece, rows: ShardSet) -> None:
    begin = f" from its token {piece.start:,}" if piece.start else ""
    say(
        f"--- row {piece.row}{begin}: {counted(len(piece.tokens), 'token')} from place {piece.place:,}, "
        f"{sum(piece.learnt):,} learnt ---"
    )
    for line in lines_of(piece, rows.tokenizer):
        text = line.text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        mark = "+" if line.is_learnt else " "
        show_line(f"{line.position:>6} {mark} {text}", LEARNT if line.is_learnt else "default")


def _document(split: str, piece: Piece, rows: ShardSet) -> dict[str, Any]:
    parts = [
        {"position": line.position, "learnt": line.is_learnt, "text": line.text}
        for line in lines_of(piece, rows.tokenizer)
    ]
    return {"split": split, **piece._asdict(), "lines": parts}
