"""JSON documents: what nobody of us wrote is refused, with what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_core.errors import CorruptFileError
from instruct_core.storage.documents import dump_document, load_document
from instruct_core.storage.store import Store


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"a": 1, "b": 2, "a": 3}',
            r"says two things: the key 'a' stands twice in one object\. Leave",
        ),
        ('{"b": [{"c": {"a": 1, "a": 1}}]}', "says two things: the key 'a' stands twice"),
        ('{"a": 1', "is no JSON: "),
        ("[1]", r"is no JSON object\."),
        ("[" * 100_000, "is no JSON: "),
    ],
)
def test_document_that_nobody_of_us_wrote_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(CorruptFileError, match=f"{tmp_path}/config.json {message}"):
        load_document(Store(tmp_path), "config.json")


def test_document_comes_back_as_it_was_written(tmp_path: Path) -> None:
    document = {"a": [{"b": 1}, {"b": 2}], "c": {"a": "ä"}, "d": []}
    Store(tmp_path).replace("document.json", dump_document(document))

    assert load_document(Store(tmp_path), "document.json") == document
