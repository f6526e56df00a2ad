"""The manifest of a shard set is read as a record and written as it was; what is none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instruct_core.data.encoder import Encoder
from instruct_core.data.mixed_plan import MixedPlan
from instruct_core.data.set_manifest import MANIFEST, load_manifest
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.shards import write_manifest, write_shard
from instruct_core.data.sources import Source
from instruct_core.data.templates import choose_template
from instruct_core.data.tokenizer import Tokenizer, load_tokenizer
from instruct_core.errors import CorruptFileError
from instruct_core.storage.documents import seal
from instruct_core.storage.store import Store
from tests.small_tokenizers import write_byte_level


def plan_of(folder: Path, tokenizer: Tokenizer, template: str, name: str = "a") -> ShardPlan:
    path = folder / f"{name}.jsonl"
    lines = [json.dumps({"instruction": f"{name} {n}", "output": "b", "id": n}) for n in range(9)]
    path.write_text("\n".join([*lines, "bad"]))
    return scan(
        Source(path.name, path.name, [str(path)]), None, None, skip_bad_rows=True,
        template=choose_template(template, tokenizer), encoder=Encoder.of(tokenizer, "there"),
    )  # fmt: skip


def made(folder: Path, plan: ShardPlan, tokenizer: Tokenizer) -> Store:
    store = Store(folder / "set")
    for shard in range(plan.num_parts):
        write_shard(store, plan, shard, tokenizer)
    assert write_manifest(store, plan)
    return store


@pytest.mark.parametrize("kind", ["alpaca", "chatml", "own", "mixed"])
def test_manifest_that_was_read_is_written_as_it_was(tmp_path: Path, kind: str) -> None:
    tokenizer = load_tokenizer(
        str(write_byte_level(tmp_path / "base")) if kind == "own" else "gpt2"
    )
    template = "chatml" if kind == "chatml" else "alpaca"
    plan = plan_of(tmp_path, tokenizer, template)
    if kind == "mixed":
        plan = MixedPlan.of([plan, plan_of(tmp_path, tokenizer, template, "b")], [0.7, 0.3])
    store = made(tmp_path, plan, tokenizer)

    manifest = load_manifest(store)

    assert manifest.data == store.read(MANIFEST)
    assert (manifest.format, manifest.fingerprint) == (plan.format, plan.fingerprint)
    assert manifest.train_rows == sum(file.rows for file in manifest.files("train"))
    assert (manifest.own_tokenizer is not None) == (kind == "own")
    assert [part.weight for part in manifest.mixture or []] == [0.7, 0.3] * (kind == "mixed")
    assert manifest.bad_rows[0]["problem"].startswith("not JSON")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"fingerprint": None}, "fingerprint"),
        ({"train": 5}, "train"),
        ({"train": [{"file": "train/00000.safetensors", "rows": 1}]}, "required field missing"),
        ({"val": [5]}, "val"),
        ({"train_rows": "9"}, "'9' is no int"),
        ({"own_tokenizer": {"name": "a"}}, "required field missing"),
        ({"mixture": [{"source": "a", "weight": "half", "shards": 1}]}, "'half' is no float"),
        ({"long_rows": "fold"}, "fold not in literal"),
    ],
)
def test_manifest_that_is_none_is_one_line(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    tokenizer = load_tokenizer()
    store = made(tmp_path, plan_of(tmp_path, tokenizer, "alpaca"), tokenizer)
    document = json.loads(store.read(MANIFEST))
    del document["xxh3"]
    document = {key: value for key, value in (document | change).items() if value is not None}
    store.replace(MANIFEST, seal(document))

    with pytest.raises(CorruptFileError, match=f"is no manifest of shards: .*{problem}") as caught:
        load_manifest(store)

    assert "Make it: python launch/preprocess.py" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_field_of_a_newer_version_is_left_out(tmp_path: Path) -> None:
    tokenizer = load_tokenizer()
    store = made(tmp_path, plan_of(tmp_path, tokenizer, "alpaca"), tokenizer)
    before = load_manifest(store)
    document = json.loads(store.read(MANIFEST))
    del document["xxh3"]
    store.replace(MANIFEST, seal(document | {"more": [1]}))

    assert load_manifest(store) == before
