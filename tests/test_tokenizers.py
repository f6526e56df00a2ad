"""Shards and runs of another base's tokenizer, as a person makes and uses them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from instruct_core.data.batches import SampleReader
from instruct_core.data.encoder import Encoder
from instruct_core.data.packing import pack
from instruct_core.data.set_manifest import load_manifest
from instruct_core.data.shard_plan import scan
from instruct_core.data.shards import ShardSet, write_manifest, write_shard
from instruct_core.data.sources import Source
from instruct_core.data.tokenizer import load_tokenizer, tokenizer_of_model, write_tokenizer
from instruct_core.data.tokenizer_files import TOKENIZER_FOLDER
from instruct_core.errors import ConfigError, MissingError
from instruct_core.storage.store import Store
from launch.runs.tokenizers import find_tokenizer
from tests.conftest import TINY_RUN, launch, write_rows
from tests.small_tokenizers import enlarge, write_byte_level, write_metaspace


def make_shards(folder: Path, base: Path, rows_file: Path) -> Path:
    """Make a shard set of a base's tokenizer, without launching anything."""
    store, tokenizer = Store(folder), load_tokenizer(str(base))
    source = Source("rows", "rows", [str(rows_file)])
    plan = scan(source, None, 60, False, encoder=Encoder.of(tokenizer, str(base)))
    write_tokenizer(tokenizer, store / TOKENIZER_FOLDER)
    plan.save(store)
    for shard in range(plan.num_parts):
        write_shard(store, plan, shard, tokenizer)
    write_manifest(store, plan)
    return folder


@pytest.mark.parametrize("vocab_size", [1 << 16, (1 << 16) + 1])
def test_shards_take_as_many_bits_as_the_vocabulary_needs(
    tmp_path: Path, rows_file: Path, vocab_size: int
) -> None:
    base = enlarge(write_byte_level(tmp_path / "base"), vocab_size)

    shards = make_shards(tmp_path / "shards", base, rows_file)

    rows = ShardSet(Store(shards), "train")
    width = np.uint16 if vocab_size == 1 << 16 else np.uint32
    assert rows.tokens(0, 0, 10).dtype == width
    assert (rows.vocab_size, rows.end_id) == (vocab_size, 2)


def test_rows_of_another_tokenizer_begin_and_end_as_its_models_expect(
    tmp_path: Path, rows_file: Path
) -> None:
    base = write_metaspace(tmp_path / "base")
    shards = make_shards(tmp_path / "shards", base, rows_file)
    rows = ShardSet(Store(shards), "train")
    lengths = rows.lengths()

    row = rows.tokens(0, 0, int(lengths[0])).tolist()
    batch = SampleReader(rows, pack(lengths, 128, 1), "response").micro_batch(
        np.arange(1, dtype=np.uint64)
    )

    assert (row[0], row[-1], row.count(2)) == (1, 2, 1)
    text = rows.tokenizer.decode(row[1:-1])
    assert text.startswith("### Instruction:\n")
    response = rows.tokenizer.decode(row[int(rows.spans(0)[0, 0]) : -1])
    assert text.endswith(f"### Response:\n{response}")
    assert batch.tokens.max() < rows.vocab_size  # what fills up is a token too


def test_shards_of_another_tokenizer_have_another_fingerprint_and_come_with_its_files(
    tmp_path: Path, rows_file: Path
) -> None:
    one, other = (write_byte_level(tmp_path / "one"), write_metaspace(tmp_path / "other"))

    sets = [make_shards(tmp_path / f"shards-{base.name}", base, rows_file) for base in (one, other)]

    manifests = [load_manifest(Store(shards)) for shards in sets]
    assert manifests[0].fingerprint != manifests[1].fingerprint
    assert manifests[0].own_tokenizer is not None
    assert manifests[0].own_tokenizer.name == "one"
    copied = load_tokenizer(str(sets[1] / TOKENIZER_FOLDER))
    assert copied.identity == manifests[1].tokenizer == load_tokenizer(str(other)).identity
    assert copied.end_ids == load_tokenizer(str(other)).end_ids


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base's tokenizer, its shards, and a run that was trained on them."""
    desk = tmp_path_factory.mktemp("desk")
    write_rows(desk / "rows.jsonl", 60)
    write_byte_level(desk / "base")
    made = launch(
        "preprocess", "--source=rows.jsonl", "--tokenizer=base", "--out=shards/own", cwd=desk
    )
    assert made.returncode == 0, made.stderr
    trained = launch(
        "finetune", "--shards=shards/own", "--run=own", "--max-steps=2", *TINY_RUN, cwd=desk
    )
    assert trained.returncode == 0, trained.stderr
    return desk


def test_run_answers_with_the_tokenizer_of_its_shards(desk: Path) -> None:
    (desk / "questions.jsonl").write_text('{"instruction": "What is a colour?"}\n')

    answered = launch(
        "generate", "--run=own", "--source=questions.jsonl", "--out=answers.jsonl",
        "--max-new-tokens=4", "--num-tasks=1", cwd=desk,
    )  # fmt: skip

    assert answered.returncode == 0, answered.stderr
    plan = json.loads((desk / "answers.jsonl.parts" / "plan.json").read_text())
    assert plan["tokenizer"] == load_tokenizer(str(desk / "base")).identity
    own = tokenizer_of_model(plan["settings"]["model"])
    assert own.identity == plan["tokenizer"]


def test_shards_of_another_tokenizer_are_refused_with_the_command_that_makes_the_right_ones(
    desk: Path, shard_set: Path
) -> None:
    refused = launch(
        "finetune", f"--shards={shard_set}", "--init=checkpoints_instruct/own/step-00000002",
        "--run=other", "--seq-len=64", "--tokens-per-step=512", cwd=desk,
    )  # fmt: skip

    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "were made with the tokenizer gpt2-bpe-1ce1664773c5, and --init" in refused.stderr
    assert "launch/preprocess.py --source" in refused.stderr
    assert f"--tokenizer {desk / 'checkpoints_instruct/own'}" in refused.stderr
    assert not (desk / "checkpoints_instruct" / "other").exists()


def test_tokenizer_of_the_hub_without_a_network_is_one_line() -> None:
    with pytest.raises(
        MissingError, match=r"--tokenizer someone/model is not here, and the Hug"
    ) as e:
        find_tokenizer("someone/model")

    assert "hf download someone/model" in str(e.value)
    assert "\n" not in str(e.value)
    with pytest.raises(ConfigError):
        find_tokenizer("nowhere://bucket/model")
