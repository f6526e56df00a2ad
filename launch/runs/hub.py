"""
Models of the Hugging Face Hub, fetched where the command is typed: compute nodes have no internet.

    folder = model_folder("openai-community/gpt2")     # of its files, in the Hub's cache
    folder = tokenizer_folder("HuggingFaceTB/SmolLM2-135M-Instruct")
    model_place("--checkpoint", typed)                 # a path as it is, or that folder of an id

What the cache has is taken as it is, so a run that is resumed begins from the same weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from instruct_core.data.tokenizer_files import COPIED, TOKENIZER
from instruct_core.errors import MissingError
from instruct_core.storage.store import Store
from launch.runs.places import absolute, reachable

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SHORT = {
    name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
}
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZERS = (*COPIED, "config.json")
# Of the root alone: conversions for other programs lie in folders of their own.
FILES = ("*.index.json", *WEIGHTS, *TOKENIZERS)


def hub_id(typed: str) -> str:
    """Return the id on the Hub that a word may stand for; "" for what looks like a path."""
    if typed in SHORT:
        return SHORT[typed]
    is_id = HUB_ID.fullmatch(typed) and not Path(typed).parent.exists()  # else a typo in a path
    return typed if is_id else ""


class _Wanted(NamedTuple):
    """What is asked of the Hub, as which flag, and what else a person could give."""

    flag: str
    files: Sequence[str]
    is_whole: Callable[[Path], bool]
    instead: str


def model_place(flag: str, typed: str) -> str:
    """
    Return the place of a model: what was typed, or the folder of an id that is no path here.

    Args:
        flag: That names the model.
        typed: Behind it.

    Raises:
        MissingError: As `model_folder` does.
    """
    if Path(typed).exists() or not (repo := hub_id(typed)):
        return typed
    return str(model_folder(repo, flag, "give a path").resolve())


def found_weights(typed: str) -> tuple[str, str]:
    """
    Return the absolute place of what --init names, and its id where it is one of the Hub, else "".

    Raises:
        MissingError: It is not there.
        ConfigError: Its place cannot be reached.
    """
    folder, _, name = absolute(typed).rpartition("/")
    with reachable("--init", typed):
        if Store(folder or "/").exists(name):
            return absolute(typed), ""
    if repo := hub_id(typed):
        return str(model_folder(repo).resolve()), repo
    raise MissingError(f"--init {typed} is not there. Give another path, or --init random.")


def model_folder(
    repo: str, flag: str = "--init", instead: str = "give a path, or --init random"
) -> Path:
    """
    Return the folder with a model's config and weights, and with its tokenizer.

    Args:
        repo: Its id.
        flag: That names it.
        instead: What else a person could do.

    Raises:
        MissingError: It is neither in the cache nor can it be fetched; says how to fetch it elsewhere.
    """

    def is_whole(folder: Path) -> bool:
        has_weights = any(path for pattern in WEIGHTS for path in folder.glob(pattern))
        return has_weights and (folder / "config.json").exists()

    return _folder(repo, _Wanted(flag, FILES, is_whole, instead))


def tokenizer_folder(repo: str) -> Path:
    """Return the folder with a model's tokenizer alone; raises MissingError as above."""
    wanted = _Wanted(
        "--tokenizer", TOKENIZERS, lambda folder: (folder / TOKENIZER).exists(), "give a path"
    )
    return _folder(repo, wanted)


def _folder(repo: str, wanted: _Wanted) -> Path:
    for only_cache in (True, False):
        if (folder := _snapshot(repo, wanted, only_cache)) is not None:
            return folder
    raise MissingError(
        f"{wanted.flag} {repo} is not here, and the Hugging Face Hub does not give it. Fetch it where "
        f"there is internet (hf download {repo}), or {wanted.instead}."
    )


def _snapshot(repo: str, wanted: _Wanted, only_cache: bool) -> Path | None:
    from huggingface_hub import snapshot_download  # here: most runs begin from a path

    try:
        found = snapshot_download(
            repo,
            allow_patterns=list(wanted.files),
            ignore_patterns=["*/*"],
            local_files_only=only_cache,
        )
    except (OSError, ValueError):  # not there, no network, no right, no such id
        return None
    return Path(found) if wanted.is_whole(Path(found)) else None
