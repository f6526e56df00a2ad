"""Several sources, weighted, and a validation set of their own: what is in shards, and what is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from instruct_core.data.batches import SampleReader
from instruct_core.data.mixed_plan import MixedPlan, load_shard_plan
from instruct_core.data.packing import load_packing, shares_of
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.shard_plan import ShardPlan
from instruct_core.data.shards import ShardSet
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from launch.arrays.shards import prepare
from launch.flags.array import ArrayFlags
from launch.flags.preprocess import Preprocess
from tests.conftest import TINY_RUN, launch, samples_of
from tests.small_tokenizers import write_byte_level

SEQ_LEN, SEED = 64, 1337
Make = Callable[..., Path]


def write(path: Path, word: str, rows: range) -> str:
    lines = [
        {"instruction": f"Say {word} {n}.", "output": " ".join([f"{word}{n}"] * (1 + n * 5 % 30))}
        for n in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Make a shard set in this process, from flags."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", "red", range(300))
    write(tmp_path / "b.jsonl", "blue", range(80))
    write(tmp_path / "v.jsonl", "green", range(60))

    def run(out: str, *sources: str, **flags: object) -> Path:
        array = ArrayFlags(num_tasks=1, cluster="debug")
        code = prepare(Preprocess(source=sources, out=out, array=array, **flags))  # type: ignore[arg-type]
        assert code == 0
        return tmp_path / out

    return run


def texts_of(shards: Path, split: str) -> list[str]:
    rows = ShardSet(Store(shards), split)
    lengths = rows.lengths()
    return [
        rows.tokenizer.decode(rows.tokens(row, 0, int(lengths[row])).tolist())
        for row in range(len(rows))
    ]


def reader_of(shards: Path, split: str = "train") -> SampleReader:
    store = Store(shards)
    rows = ShardSet(store, split)
    fingerprint = load_manifest(store).fingerprint
    return SampleReader(rows, load_packing(store, rows, split, fingerprint, SEQ_LEN, SEED), "all")


def test_sources_without_weights_are_read_like_one(make: Make) -> None:
    shards = make("both", "a.jsonl", "b.jsonl")

    train, val = texts_of(shards, "train"), texts_of(shards, "val")
    reader = reader_of(shards)

    assert len(train) + len(val) == 380
    assert sum("Say blue" in text for text in train) > 60
    assert not set(train) & set(val)
    epoch = reader.at(np.arange(len(reader), dtype=np.uint64), SEED)
    assert sorted(epoch.tolist()) == list(range(len(reader)))


def test_sequences_of_sources_with_weights_are_of_one_source_each_and_come_by_weight(
    make: Make,
) -> None:
    shards = make("mixed", "a.jsonl", "b.jsonl", weights="0.7,0.3")
    reader = reader_of(shards)
    tokenizer = ShardSet(Store(shards), "train").tokenizer

    order = reader.at(np.arange(2000, dtype=np.uint64), SEED)
    texts = [
        tokenizer.decode(reader.micro_batch(order[n : n + 1]).tokens[0].tolist())
        for n in range(0, 2000, 10)
    ]

    is_blue = ["Say blue" in text or "blue" in text for text in texts]
    is_red = ["red" in text for text in texts]
    assert not any(blue and red for blue, red in zip(is_blue, is_red, strict=True))
    store = Store(shards)
    rows = ShardSet(store, "train")
    packing = load_packing(store, rows, "train", load_manifest(store).fingerprint, SEQ_LEN, SEED)
    red, _ = shares_of(packing, rows.groups)
    assert abs((order < red.sequences).mean() - 0.7) < 0.001


@pytest.mark.parametrize("is_made", [True, False])
def test_rows_of_a_mixture_are_shown_as_a_run_reads_them(
    make: Make, capsys: pytest.CaptureFixture[str], is_made: bool
) -> None:
    sources = ("a.jsonl", "b.jsonl")
    if is_made:
        make("mixed", *sources, weights="0.7,0.3")
        capsys.readouterr()

    make("mixed", *sources, weights="0.7,0.3", inspect=200, json=True)

    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    words: dict[int, set[str]] = {}
    for row in shown[:150]:  # those behind them validate
        text = "".join(line["text"] for line in row["lines"])
        words.setdefault(row["sequence"], set()).add("blue" if "Say blue" in text else "red")
    assert all(len(of_one) == 1 for of_one in words.values())
    assert set.union(*words.values()) == {"red", "blue"}


def test_weights_are_part_of_the_fingerprint_and_sources_go_on_as_they_were(make: Make) -> None:
    one = load_manifest(Store(make("one", "a.jsonl", "b.jsonl", weights="0.7,0.3")))
    other = load_manifest(Store(make("other", "a.jsonl", "b.jsonl", weights="0.5,0.5")))
    plain = load_shard_plan(Store(make("plain", "a.jsonl")))
    again = load_shard_plan(Store(make("one", "a.jsonl", "b.jsonl", weights="0.7,0.3")))

    assert one.fingerprint != other.fingerprint
    assert type(plain) is ShardPlan
    assert isinstance(again, MixedPlan)
    assert again.fingerprint == one.fingerprint
    assert "sources" not in json.loads(Path("plain/plan.json").read_text())


def test_validation_set_of_its_own_is_all_that_validates(make: Make) -> None:
    shards = make("held", "a.jsonl", val_source="v.jsonl")
    few = make("few", "a.jsonl", val_source="v.jsonl", val_rows=10)

    assert all("Say red" in text for text in texts_of(shards, "train"))
    assert len(texts_of(shards, "train")) == len(texts_of(few, "train")) == 300
    assert len(texts_of(shards, "val")) == 60
    validates = texts_of(few, "val")
    assert len(validates) == 10
    assert all("Say green" in text for text in validates)


def test_rows_that_train_and_validate_too_are_counted_and_said(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "w.jsonl", "red", range(290, 320))
    write(tmp_path / "x.jsonl", "red", range(290, 295))

    for _ in range(2):  # the second time nothing is read
        make("held", "a.jsonl", "x.jsonl", val_source="w.jsonl")
        assert "Overlap: 15 rows to train on, word for word as one that validates" in (
            capsys.readouterr().out
        )
    (tmp_path / "x.jsonl").write_text((tmp_path / "b.jsonl").read_text())
    make("held", "a.jsonl", "x.jsonl", val_source="w.jsonl")
    assert "Overlap: 10 rows" in capsys.readouterr().out
    make("few", "a.jsonl", val_source="w.jsonl", val_rows=3)
    validates, train = texts_of(Path("few"), "val"), texts_of(Path("few"), "train")
    said = capsys.readouterr().out
    both = sum(text in validates for text in train)
    assert (f"Overlap: {both} row" in said) is bool(both)
    make("apart", "a.jsonl", val_source="v.jsonl")
    assert "Overlap" not in capsys.readouterr().out


def test_rows_that_stand_in_several_sources_are_counted_and_said(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = "".join((tmp_path / "a.jsonl").read_text().splitlines(keepends=True)[:40])
    (tmp_path / "half.jsonl").write_text(half)
    said = "Duplicates: 40 rows, word for word as one of a source before; they are read from each"

    for weights in (None, "0.5,0.3,0.2"):
        make(f"in-{weights}", "a.jsonl", "b.jsonl", "half.jsonl", weights=weights)
        assert said in capsys.readouterr().out
        make(f"in-{weights}", "a.jsonl", "b.jsonl", "half.jsonl", weights=weights)  # from its plan
        assert said in capsys.readouterr().out
    make("twice", "half.jsonl", "half.jsonl", val_source="v.jsonl")
    assert said in capsys.readouterr().out
    make("apart", "a.jsonl", "b.jsonl")
    assert "Duplicates" not in capsys.readouterr().out


def test_template_that_a_base_has_and_rows_do_not_use_is_said(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    write_byte_level(tmp_path / "chats", chat_template=template)

    make("own", "a.jsonl", tokenizer="chats", template="base")
    uses = capsys.readouterr().out
    make("headings", "a.jsonl", tokenizer="chats")

    assert "has one of its own" not in uses
    assert "Template: alpaca; chats has one of its own, which --template base writes" in (
        capsys.readouterr().out
    )


def test_so_many_rows_validate_as_were_asked_for(make: Make) -> None:
    assert len(texts_of(make("some", "a.jsonl", val_rows=33), "val")) == 33
    assert len(texts_of(make("usual", "a.jsonl"), "val")) == 15


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"val_rows": 300}, "--val-rows must be fewer than the 300 rows of a.jsonl, got 300."),
        ({"val_rows": 10**6}, "--val-rows must be fewer than the 300 rows of a.jsonl, got 1,000,000."),
        ({"val_source": "v.jsonl", "val_rows": 61},
         "--val-rows must be at most the 60 rows of v.jsonl, got 61."),
    ],
)  # fmt: skip
def test_more_rows_than_there_are_cannot_validate(
    make: Make, tmp_path: Path, flags: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}$"):
        make("none", "a.jsonl", **flags)
    assert not (tmp_path / "none").exists()


def test_whole_source_validates_where_so_many_rows_are_asked_for(
    make: Make, tmp_path: Path
) -> None:
    write(tmp_path / "one.jsonl", "green", range(1))

    assert len(texts_of(make("all", "a.jsonl", val_source="v.jsonl", val_rows=60), "val")) == 60
    assert len(texts_of(make("one", "a.jsonl", val_source="one.jsonl", val_rows=1), "val")) == 1


def test_row_that_stands_in_two_sources_is_in_one_split(make: Make, tmp_path: Path) -> None:
    write(tmp_path / "c.jsonl", "red", range(150, 200))

    shards = make("twice", "a.jsonl", "c.jsonl", weights="1,1")

    train, val = texts_of(shards, "train"), texts_of(shards, "val")
    assert len(train) + len(val) == 350
    assert not set(train) & set(val)


WRONG = {
    "one weight for two": ({"weights": "0.7"}, "--weights must be numbers above 0, one for each"),
    "no number": ({"weights": "0.7,x"}, "got '0.7,x' for 2"),
    "next to nothing": (
        {"weights": "1,0.0004"},
        "would never be read. Give it more, or leave it out",
    ),
    "below zero": ({"weights": "0.7,-1"}, "--weights must be numbers above 0"),
    "columns": ({"columns": "instruction=q,output=a"}, "--columns does not go with several"),
    "rows to validate": ({"val_rows": 5}, "--val-rows with several sources needs --val-source"),
}


@pytest.mark.parametrize("case", WRONG)
def test_flags_that_make_no_mixture_are_one_line(make: Make, case: str) -> None:
    flags, message = WRONG[case]

    with pytest.raises(ConfigError, match=message):
        make("wrong", "a.jsonl", "b.jsonl", **flags)

    assert not Path("wrong").exists()


def test_mixture_goes_on_exactly_with_another_number_of_ranks(make: Make, tmp_path: Path) -> None:
    make("mixed", "a.jsonl", "b.jsonl", weights="0.7,0.3")
    flags = ["--shards=mixed", "--run=m", "--record-samples", "--cluster=local", *TINY_RUN]

    for steps, gpus in ((3, 1), (6, 2)):
        done = launch("finetune", *flags, f"--max-steps={steps}", f"--gpus={gpus}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    read = samples_of(tmp_path / "runs_instruct" / "m")
    order = reader_of(tmp_path / "mixed").at(np.arange(6 * 8, dtype=np.uint64), SEED)
    assert [read[step] for step in sorted(read)] == [
        set(order[8 * step : 8 * step + 8].tolist()) for step in range(6)
    ]
