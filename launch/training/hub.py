"""
Models of the Hugging Face Hub, fetched where the command is typed: compute nodes have no internet.

    folder = model_folder("openai-community/gpt2")     # of its files, in the Hub's cache

What the cache has is taken as it is, so a run that is resumed begins from the same weights.
"""

from __future__ import annotations

import re
from pathlib import Path

from instruct_core.errors import MissingError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SHORT = {
    name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
}
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# Of the root alone: conversions for other programs lie in folders of their own.
FILES = ("config.json", "*.index.json", *WEIGHTS)


def hub_id(typed: str) -> str:
    """Return the id on the Hub that a word may stand for; "" for what looks like a path."""
    if typed in SHORT:
        return SHORT[typed]
    is_id = HUB_ID.fullmatch(typed) and not Path(typed).parent.exists()  # else a typo in a path
    return typed if is_id else ""


def model_folder(repo: str) -> Path:
    """
    Return the folder with a model's config and weights.

    Raises:
        MissingError: It is neither in the cache nor can it be fetched; says how to fetch it elsewhere.
    """
    if (folder := _snapshot(repo, only_cache=True)) is not None:
        return folder
    folder = _snapshot(repo, only_cache=False)
    if folder is None:
        raise MissingError(
            f"--init {repo} is not here, and the Hugging Face Hub does not give it. Fetch it where there "
            f"is internet (hf download {repo}), or give a path, or --init random."
        )
    return folder


def _snapshot(repo: str, only_cache: bool) -> Path | None:
    from huggingface_hub import snapshot_download  # here: most runs begin from a path

    try:
        found = snapshot_download(
            repo, allow_patterns=list(FILES), ignore_patterns=["*/*"], local_files_only=only_cache
        )
    except (OSError, ValueError):  # not there, no network, no right, no such id
        return None
    folder = Path(found)
    has_weights = any(path for pattern in WEIGHTS for path in folder.glob(pattern))
    return folder if has_weights and (folder / "config.json").exists() else None
