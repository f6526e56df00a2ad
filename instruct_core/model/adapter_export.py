"""
A step of adapters as a folder that others load: PEFT's own, or a whole model with the adapters in it.

    export_adapter(store, step=300, target=Store("my-adapter"))
    PeftModel.from_pretrained(base_model, "my-adapter")
    export_merged(store, step=300, target=Store("my-model"))
    AutoModelForCausalLM.from_pretrained("my-model")

`base.json` in PEFT's folder is ours: place and hash of the base, so that our commands know it.
"""

from __future__ import annotations

from instruct_core.checkpoints.staging import direct_image
from instruct_core.checkpoints.steps import folder_of, read_manifest, read_verified, step_name
from instruct_core.lora_settings import CONFIG_FILE, WEIGHTS_FILE
from instruct_core.model.adapters import BASE_FILE, base_file
from instruct_core.model.hugging_face import refuse_filled, tokenizer_files, whole_or_nothing
from instruct_core.model.weights import load_pretrained
from instruct_core.shape import config_file
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store


def export_adapter(store: Store, step: int, target: Store) -> None:
    """
    Write PEFT's folder; adapter_config.json last, so that half of it never passes for an adapter.

    Args:
        store: The run's folder.
        step: Which checkpoint.
        target: Must be empty, or not there yet.

    Raises:
        ConfigError: The target has something in it.
        CorruptFileError: The checkpoint is not what was written.
    """
    refuse_filled(target)
    name = folder_of(store, step)
    folder, manifest = store / name, read_manifest(store, step, name)
    assert manifest.base is not None, "the caller has looked"
    entries = {entry.file: entry for entry in manifest.files}
    files = {
        **tokenizer_files((store / step_name(step)).url, manifest.model),
        BASE_FILE: base_file(manifest.base, manifest.model),
    }
    views = {name: memoryview(data) for name, data in files.items()}
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        views[name] = memoryview(read_verified(folder, entries[name]).data)
    with whole_or_nothing(target) as put:
        for name, view in views.items():
            put(name, [view])


def export_merged(store: Store, step: int, target: Store) -> None:
    """Write a whole model; arguments and errors are those of `export_adapter`, and the base's."""
    refuse_filled(target)
    place = (store / step_name(step)).url
    shape, weights = load_pretrained(place)
    image = direct_image("model.safetensors", weights, {"format": "pt"})
    config = dump_document(config_file(shape))
    with whole_or_nothing(target) as put:
        for name, data in tokenizer_files(place, shape).items():
            put(name, [memoryview(data)])
        put(image.name, image.views)
        put("config.json", [memoryview(config)])
