"""What is said of a shard set before it is made."""

from __future__ import annotations

import json
from pathlib import Path

from instruct_core.data.shard_plan import scan
from instruct_core.data.sources import Source
from launch.arrays.about_shards import about_plan


def lines_about(path: Path, question: str) -> list[str]:
    path.write_text(json.dumps({"instruction": question, "output": "A cat."}) + "\n")
    source = Source("rows", "rows", [str(path)])
    return about_plan(scan(source, None, None, skip_bad_rows=False), None)


def test_pictures_that_are_not_read_are_said_where_a_text_has_their_markers(tmp_path: Path) -> None:
    marked = lines_about(tmp_path / "marked.jsonl", "<image> What is it?")
    plain = lines_about(tmp_path / "plain.jsonl", "What is an image?")

    assert set(marked) - set(plain) == {
        "Markers: 1 row with <image>, <video>, <audio> or the like in the text, learnt as text: pictures "
        "and sounds are not read"
    }
