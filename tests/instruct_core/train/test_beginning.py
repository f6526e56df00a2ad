"""What a run begins with: how far its positions are trained, whatever its first weights are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from instruct_core.answers.batch import answer_prompts
from instruct_core.answers.generation import generate
from instruct_core.checkpoints.loader import Loaded
from instruct_core.checkpoints.manifest import Manifest, Progress, manifest_from
from instruct_core.checkpoints.staging import direct_image
from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.errors import ConfigError, CorruptFileError
from instruct_core.lora_settings import Base
from instruct_core.model.adapters import BASE_FILE, base_file
from instruct_core.model.families import build
from instruct_core.model.family import Model
from instruct_core.model.weights import load_pretrained
from instruct_core.shape import Shape, config_file, with_trained
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store
from instruct_core.train.beginning import begin
from tests.instruct_core.model.small_adapters import SHAPE, adapted, base_model, save

FAMILIES = ["tiny", "tiny-llama"]
LONG = 64  # tokens of a sequence in these runs


def config_of(model: str, init: str = "random", lora: int | None = None) -> TrainConfig:
    return TrainConfig("r", "s", "c", "t", init, model, "f", seq_len=LONG, lora=lora)


def shape_of(model: str, trained: int | None) -> Shape:
    """Return a preset's shape in small: fewer weights to write."""
    return with_trained(replace(PRESETS[model], vocab_size=50257, num_layers=1), trained)


def write(folder: Path, shape: Shape) -> str:
    """Write a model as its export is, and return its place."""
    model = build(shape)
    model.initialize(seed=1)
    image = direct_image("model.safetensors", dict(model.state_dict()), {"format": "pt"})
    Store(folder).put(image.name, image.views)
    (folder / "config.json").write_bytes(dump_document(config_file(shape)))
    return str(folder)


def checkpoint(shape: Shape, base: Base | None = None) -> Loaded:
    """Return what a rank has loaded of a step of this shape, by way of its manifest."""
    manifest = Manifest(
        format=1 if base is None else 2, global_step=1, attempt=0, world_size=1, saved_at=0.0,
        model=shape, base=base, progress=Progress(1, 1, 1), files=[],
    )  # fmt: skip
    return Loaded(1, manifest_from(json.loads(dump_document(manifest.document)), ""), {}, {}, None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, 4])
def test_random_weights_are_trained_as_far_as_their_sequences_reach(
    family: str, lora: int | None
) -> None:
    first = begin(config_of(family, lora=lora), None).model.config
    assert first.trained_positions == LONG

    base = Base("random", "", family, 1337) if lora else None
    later = begin(config_of(family, lora=lora), checkpoint(first, base)).model.config

    assert later.trained_positions == LONG
    # A step of a version that did not say it.
    old = begin(config_of(family, lora=lora), checkpoint(PRESETS[family], base)).model.config
    assert old.trained_positions == LONG


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, 4])
@pytest.mark.parametrize(("before", "after"), [(None, None), (16, LONG), (300, 300)])
def test_weights_keep_the_positions_that_were_trained_before(
    tmp_path: Path, family: str, lora: int | None, before: int | None, after: int | None
) -> None:
    base = write(tmp_path / "base", shape_of(family, before))
    config = config_of("", base, lora)

    first = begin(config, None).model.config
    later = begin(config, checkpoint(first, Base(base, "") if lora else None)).model.config

    assert (first.trained_positions, later.trained_positions) == (after, after)


def test_manifest_says_it_where_older_versions_do_not_look(tmp_path: Path) -> None:
    limited = checkpoint(shape_of("tiny", 16)).manifest
    whole = checkpoint(shape_of("tiny", None)).manifest

    assert limited.model.trained_positions == limited.document["trained_positions"] == 16
    assert whole.document.keys() == limited.document.keys() - {"trained_positions"}
    assert whole.document["model"] == limited.document["model"]
    assert "trained_positions" not in whole.document["model"]
    for wrong in (0, -1, 1025, True, "16"):
        with pytest.raises(CorruptFileError, match=r"^M: trained_positions is "):
            manifest_from(limited.document | {"trained_positions": wrong}, "M")


def test_adapters_that_were_exported_say_how_far_they_were_trained(tmp_path: Path) -> None:
    base = Store(tmp_path / "base")
    image = direct_image("model.safetensors", dict(base_model().state_dict()), {"format": "pt"})
    base.put(image.name, image.views)
    (tmp_path / "base" / "config.json").write_bytes(
        dump_document(config_file(with_trained(SHAPE, 8)))
    )
    folder = save(tmp_path / "adapter", *adapted("c_attn"), Base(base.url, ""))
    assert load_pretrained(base.url)[0].trained_positions == 8
    assert load_pretrained(str(folder))[0].trained_positions is None

    (folder / BASE_FILE).write_bytes(base_file(Base(base.url, ""), with_trained(SHAPE, 16)))
    assert load_pretrained(str(folder))[0].trained_positions == 16

    (folder / BASE_FILE).unlink()  # PEFT's own says nothing: what the base says holds
    assert load_pretrained(str(folder))[0].trained_positions == 8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrong", [0, 1025, "many", True])
def test_config_that_says_it_wrongly_is_refused(tmp_path: Path, family: str, wrong: object) -> None:
    place = write(tmp_path / "m", shape_of(family, 16))
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trained_positions": wrong}))

    with pytest.raises(ConfigError, match=f"config.json has trained_positions {wrong}"):
        load_pretrained(place)


@pytest.fixture
def limited() -> Model:
    model = build(shape_of("tiny", 24))
    model.initialize(seed=1)
    return model.eval()


def test_text_ends_where_trained_positions_end(limited: Model) -> None:
    [answer] = generate(limited, [[5] * 20], max_new_tokens=100)

    assert (len(answer.tokens), answer.finish_reason) == (4, "length")
    with pytest.raises(ValueError, match="1 to 23 tokens, got 24"):
        generate(limited, [[5] * 24])


def test_question_beyond_trained_positions_is_too_long(limited: Model) -> None:
    answers = answer_prompts(
        limited, [[5] * 23, [5] * 24], load_tokenizer(), BY_HEADINGS, batch_size=2, max_new_tokens=9
    )

    assert [(answer.finish_reason, answer.num_new_tokens) for answer in answers] == [
        ("length", 1), ("too_long", 0),
    ]  # fmt: skip
