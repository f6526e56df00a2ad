"""
Questions in, answers out: what stands behind launch/chat.py.

    speaker = load_speaker(flags, find_checkpoint(flags))
    print(speaker.answer("What is AI?"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from instruct_core.data.template import render_prompt
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.errors import ConfigError, MissingError
from instruct_core.storage.documents import load_document
from instruct_core.storage.steps import committed_steps, damage_of, step_name
from instruct_core.storage.store import Store
from launch.chat import Chat
from launch.console import say

if TYPE_CHECKING:
    from instruct_core.model.gpt2 import GPT2


class Speaker:
    """A model that answers one question at a time."""

    def __init__(self, model: GPT2, flags: Chat) -> None:
        self._model, self._flags = model, flags
        self._tokenizer = load_tokenizer()

    def answer(self, question: str) -> str:
        """Return the model's answer to a question in the training template."""
        from instruct_core.model.generation import generate

        prompt = self._tokenizer.encode(render_prompt(question, self._flags.input))
        tokens = generate(
            self._model,
            prompt,
            max_new_tokens=self._flags.max_new_tokens,
            temperature=self._flags.temperature,
            seed=self._flags.seed,
        )
        return self._tokenizer.decode(tokens).strip()


def find_checkpoint(flags: Chat) -> str:
    """
    Return the place of the model to talk to: what was named, or the newest verified step of a run.

    Raises:
        ConfigError: A flag makes no sense.
        MissingError: No such run, or it has not saved yet.
    """
    if flags.max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens must be at least 1, got {flags.max_new_tokens}.")
    if flags.temperature < 0:
        raise ConfigError(f"--temperature must be at least 0, got {flags.temperature}.")
    if not 0 <= flags.seed < 2**63:
        raise ConfigError(f"--seed must be at least 0 and less than 2**63, got {flags.seed}.")
    if flags.run and flags.checkpoint:
        raise ConfigError("--run and --checkpoint name two models. Give one of them.")
    if flags.checkpoint:
        return flags.checkpoint
    runs = Store(flags.checkpoints)
    run = flags.run or _latest_run(runs)
    if not (runs / run).names():
        raise MissingError(
            f"Run {run} is not there: no folder of that name in {runs.url}. "
            f"Runs: {', '.join(_runs(runs)) or 'none'}."
        )
    return _newest_verified(runs / run, run)


def _runs(store: Store) -> list[str]:
    return [name for name in store.names() if store.exists(f"{name}/run.json")]


def _latest_run(store: Store) -> str:
    """Return the run that saved last, by the manifests' own words."""
    saved = []
    for name in _runs(store):
        for step in committed_steps(store / name)[-1:]:
            manifest = load_document(store / name, f"{step_name(step)}/manifest.json")
            saved.append((float(manifest.get("saved_at", 0)), name))
    if not saved:
        raise MissingError(
            f"No run in {store.url} has saved yet. Train one: python launch/finetune.py, or name a "
            "model: --checkpoint PATH"
        )
    return max(saved)[1]


def _newest_verified(store: Store, run: str) -> str:
    for step in reversed(committed_steps(store)):
        if not (damage := damage_of(store, step)):
            return (store / step_name(step)).url
        say(f"{damage} Taking the one before.")
    raise MissingError(f"Run {run} has no checkpoint that can be loaded yet, in {store.url}.")


def load_speaker(flags: Chat, checkpoint: str) -> Speaker:
    """Return the model of a checkpoint, ready to answer, on the GPU where there is one."""
    from instruct_core.model.pretrained import load_model

    return Speaker(load_model(checkpoint), flags)
