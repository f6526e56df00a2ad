"""The tokenizer of another base: its own ids, no control tokens out of texts, and text while it comes."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_core.data.gpt2_tokenizer import TOKENIZER_NAME
from instruct_core.data.tokenizer import Tokenizer, load_tokenizer, tokenizer_of_model
from instruct_core.errors import ConfigError, CorruptFileError, MissingError
from tests.small_tokenizers import END, START, write_byte_level, write_metaspace

KINDS = {"byte level": write_byte_level, "metaspace": write_metaspace}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[request.param](tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def theirs(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@settings(deadline=None, max_examples=30)
@given(st.text(alphabet="abcö你🚀 \n?", max_size=40))
def test_text_has_the_librarys_tokens_and_comes_back_character_by_character(
    tokenizer: Tokenizer, theirs: tokenizers.Tokenizer, text: str
) -> None:
    expected = theirs.encode(text, add_special_tokens=False).ids
    decoder = codecs.getincrementaldecoder("utf-8")(errors="strict")

    tokens = tokenizer.encode(text)
    pieces = [decoder.decode(tokenizer.bytes_of(token)) for token in tokens]

    assert tokens == expected
    assert tokenizer.decode(tokens) == theirs.decode(expected, skip_special_tokens=False)
    assert tokenizer.decode(tokens).lstrip() == text.lstrip()
    assert "".join(pieces).lstrip() == text.lstrip()


@pytest.mark.parametrize("text", ["{}", "a {} b", "{}{}", "x{}y"])
def test_control_token_that_a_text_spells_is_ordinary_text(tokenizer: Tokenizer, text: str) -> None:
    for special, id_ in tokenizer.specials.items():
        spelled = text.format(special, special)

        tokens = tokenizer.encode(spelled)

        assert id_ not in tokens or special == "<unk>"
        assert tokenizer.decode(tokens) == spelled
        assert tokenizer.special_id(special) == id_


def test_rows_of_parts_are_what_the_library_makes_of_the_whole(
    tokenizer: Tokenizer, theirs: tokenizers.Tokenizer
) -> None:
    end = next(text for text, id_ in tokenizer.specials.items() if id_ == tokenizer.end_id)
    rows = [
        ["What is", " blue?", tokenizer.end_id, "\nBlue is", tokenizer.end_id],
        [tokenizer.end_id, "", tokenizer.end_id],
        ["Grüße ", "你好"],
    ]
    texts = [f"What is blue?{end}\nBlue is{end}", f"{end}{end}", "Grüße 你好"]

    tokens, ends, starts = tokenizer.encode_rows(rows)

    expected = [theirs.encode(text, add_special_tokens=False).ids for text in texts]
    assert [row.tolist() for row in np.split(tokens, ends)[:-1]] == expected
    assert len(starts) == sum(map(len, rows))
    first = expected[0].index(tokenizer.end_id)
    blue = tokenizer.encode("What is blue?")
    assert starts[:4].tolist() == [0, len(tokenizer.encode("What is")), len(blue), first + 1]
    assert [int(tokens[place]) for place in starts[5:8]] == [tokenizer.end_id] * 3


def test_gpt2s_rows_of_parts_are_what_tiktoken_makes_of_each_stretch() -> None:
    tokenizer = load_tokenizer()
    end = tokenizer.end_id
    rows = [["What is", " AI?", end, "A field", end, "so"], ["", "é", end], ["你", "好"]]

    tokens, ends, starts = tokenizer.encode_rows(rows)

    expected = [
        [*tokenizer.encode("What is AI?"), end, *tokenizer.encode("A field"), end,
         *tokenizer.encode("so")],
        [*tokenizer.encode("é"), end],
        tokenizer.encode("你好"),
    ]  # fmt: skip
    assert [row.tolist() for row in np.split(tokens, ends)[:-1]] == expected
    assert tokenizer.encode(*rows[0]) == expected[0]
    first = len(expected[0])
    assert starts.tolist()[:6] == [0, 2, 4, 5, 7, 8]
    assert starts.tolist()[6:9] == [first, first, first + len(expected[1]) - 1]
    assert starts.tolist()[9:] == [
        len(expected[0] + expected[1]),
        len(expected[0] + expected[1]) + 2,
    ]


def test_begin_token_is_what_the_library_puts_first(tmp_path: Path) -> None:
    with_begin, without = write_metaspace(tmp_path / "a"), write_byte_level(tmp_path / "b")

    assert load_tokenizer(str(with_begin)).begin_ids == (1,)
    assert load_tokenizer(str(without)).begin_ids == ()


Change = Callable[[dict[str, Any]], Any]


def changed(folder: Path, name: str, change: Change) -> Path:
    document = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    change(document)
    (folder / name).write_text(json.dumps(document))
    return folder


def test_identity_is_of_the_tokens_alone(tmp_path: Path) -> None:
    one, other = write_byte_level(tmp_path / "one"), write_byte_level(tmp_path / "other")
    changed(other, "tokenizer.json", lambda d: d.update(truncation=None, padding=None))
    changed(other, "tokenizer_config.json", lambda d: d.update(model_max_length=4096))
    document = json.loads((other / "tokenizer.json").read_text())
    document["model"]["merges"] = [
        merge.split() if isinstance(merge, str) else " ".join(merge)
        for merge in document["model"]["merges"]
    ]
    (other / "tokenizer.json").write_text(json.dumps(document, indent=3))
    ends = write_byte_level(tmp_path / "ends", end="<|endoftext|>")
    larger = write_byte_level(tmp_path / "larger", vocab_size=300)

    identities = [load_tokenizer(str(f)).identity for f in (one, other, ends, larger)]

    assert identities[0] == identities[1]
    assert len(set(identities)) == 3


def test_all_ends_of_answers_are_known(tmp_path: Path) -> None:
    folder = write_byte_level(tmp_path / "base")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 0]}')
    (folder / "config.json").write_text('{"eos_token_id": 1}')

    tokenizer = load_tokenizer(str(folder))

    assert (tokenizer.end_id, tokenizer.end_ids) == (2, frozenset({0, 2}))
    assert "config.json" not in tokenizer.files


def test_end_is_the_models_where_the_tokenizer_names_none(tmp_path: Path) -> None:
    folder = write_byte_level(tmp_path / "base", end=None)
    (folder / "config.json").write_text('{"eos_token_id": 0}')

    assert load_tokenizer(str(folder)).end_id == 0


def test_ends_of_the_model_go_along_where_its_file_for_generation_names_none(
    tmp_path: Path,
) -> None:
    folder, copy = write_byte_level(tmp_path / "base", end=None), tmp_path / "copy"
    (folder / "generation_config.json").write_text('{"do_sample": true}')
    (folder / "config.json").write_text('{"eos_token_id": [2, 0]}')
    tokenizer = load_tokenizer(str(folder))
    copy.mkdir()
    for name, data in tokenizer.files.items():
        (copy / name).write_bytes(data)

    again = load_tokenizer(str(copy))

    assert (again.end_id, again.end_ids) == (tokenizer.end_id, frozenset({0, 2}))
    assert json.loads(tokenizer.files["generation_config.json"])["do_sample"] is True


def unigram(document: dict[str, Any]) -> None:
    pieces = [[text, 0.0] for text in ("<unk>", "</s>", "a", "▁", "b", "<", "/", "s", ">")]
    document["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    document["added_tokens"] = [
        {"id": 1, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
    ]  # fmt: skip


BAD = {
    "no end": ("tokenizer_config.json", lambda d: d.pop("eos_token"), "has no eos_token"),
    "unknown end": (
        "tokenizer_config.json",
        lambda d: d.update(eos_token="<stop>"),
        "tokenizer_config.json has the eos_token '<stop>', which tokenizer.json does not know",
    ),
    "list as end": (
        "tokenizer_config.json",
        lambda d: d.update(eos_token=["<|im_end|>"]),
        r"tokenizer_config.json has the eos_token \['<|im_end|>'\], which",
    ),
    "end out of range": (
        "generation_config.json",
        lambda d: d.update(eos_token_id=[2, 99999]),
        r"generation_config.json has the eos_token_id \[2, 99999\]",
    ),
    "other decoder": (
        "tokenizer.json",
        lambda d: d.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
        "tokenizer.json has the decoder WordPiece, which is not read",
    ),
    "drawn tokens": (
        "tokenizer.json",
        lambda d: d["model"].update(dropout=0.1),
        "draws its tokens: model.dropout is 0.1",
    ),
    "unknown model": (
        "tokenizer.json",
        lambda d: d["model"].update(type="Mystery"),
        "tokenizer.json cannot be read",
    ),
    "texts that say a control token": ("tokenizer.json", unigram, "</s> in a text for the control"),
}


@pytest.mark.parametrize("case", BAD)
def test_tokenizer_that_cannot_be_used_is_refused_by_file_and_field(
    case: str, tmp_path: Path
) -> None:
    name, change, message = BAD[case]
    folder = changed(write_metaspace(tmp_path / "base"), name, change)

    with pytest.raises(ConfigError, match=message):
        load_tokenizer(str(folder))


def test_file_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"gone is not there. Give gpt2, or a folder"):
        load_tokenizer(str(tmp_path / "gone"))
    folder = write_byte_level(tmp_path / "base")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "a", "eos_token": "b"}')
    with pytest.raises(
        CorruptFileError, match=r"_config.json says two things: the key 'eos_token'"
    ):
        load_tokenizer(str(folder))
    (folder / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(CorruptFileError, match=r"base/tokenizer.json is no JSON"):
        load_tokenizer(str(folder))
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(MissingError, match=r"has no tokenizer.json. Convert tokenizer.model"):
        load_tokenizer(str(folder))


def test_tokenizer_of_a_step_is_that_of_its_run(tmp_path: Path) -> None:
    step = tmp_path / "run" / "step-00000100"
    step.mkdir(parents=True)
    (step / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(MissingError, match=r"has no tokenizer\.json"):
        tokenizer_of_model(str(step))

    (tmp_path / "run" / "run.json").write_text("{}")
    assert tokenizer_of_model(str(step)).identity == TOKENIZER_NAME

    write_byte_level(tmp_path / "run" / "tokenizer")
    assert tokenizer_of_model(str(step)).special_id(START) == 1
    assert tokenizer_of_model(str(step)).special_id(END) == 2
    assert tokenizer_of_model(str(tmp_path / "weights.pt")).identity == TOKENIZER_NAME
