"""
Whether two versions of this code make the same files: what guards every refactor.

    make same BASE=3368ad2       # that commit, and the files as they stand here

Both prepare shards, train 20 steps of `tiny` on two ranks with dropout and one warning on the way,
answer questions and evaluate, in the same folder one after the other. Every file they leave is
compared by a hash; what the clock, the process or the commit decides is left out of it, key by key.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import REPO, events_of, samples_of, wait_for

VOLATILE_KEYS = {
    "claimed_at", "code", "difference", "git_commit", "host", "hosts", "job_id", "modified", "pid",
    "pids", "saved_at", "seconds", "spent", "step_seconds", "token", "utc_seconds", "written_at",
}  # fmt: skip
# Where the warning falls, and what follows from it, is the clock's choice.
VOLATILE_EVENTS = {"warned", "requeued", "resumed", "started", "saved", "short_lead"}
VOLATILE_CURVES = ("tokens_per_second", "_seconds", "system/", "receipt/")
VOLATILE_PARTS = {"job", "attempts", "lock"}  # of a path: logs, pickles and code; claims; a pid
QUESTIONS = ("What is AI?", "Name a planet.", "Say something kind.")


def make(tree: Path, folder: Path) -> None:
    """Run the commands of one version of the code in an empty folder."""
    env = os.environ | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def start(verb: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(tree / "launch" / f"{verb}.py"), *arguments]
        return subprocess.Popen(command, cwd=folder, env=env, stdout=sys.stderr)

    def run(verb: str, *arguments: str) -> None:
        assert start(verb, *arguments).wait() == 0, f"{verb} of {tree} failed"

    (folder / "questions.jsonl").write_text(
        "".join(json.dumps({"instruction": question}) + "\n" for question in QUESTIONS)
    )
    here = "--cluster=local"
    run("preprocess", "--source=builtin", "--out=shards/builtin", "--num-tasks=2", here)
    training = start(
        "finetune", "--run=r", "--model=tiny", "--init=random", "--gpus=2", "--max-steps=20",
        "--seq-len=64", "--tokens-per-step=512", "--micro-batch-size=2", "--learning-rate=1e-3",
        "--warmup-steps=5", "--eval-every=10", "--save-every=5", "--dropout=0.1", "--record-samples",
        "--keep-checkpoints=1", here,
    )  # fmt: skip
    ledger = folder / "runs_instruct" / "r"

    def has_saved() -> bool:
        return training.poll() is not None or any(e["event"] == "saved" for e in events_of(ledger))

    wait_for(has_saved, "the first save")
    training.send_signal(signal.SIGUSR2)
    assert training.wait() == 0, f"finetune of {tree} failed"
    warnings = sum(event["event"] == "warned" for event in events_of(ledger))
    assert warnings == 1, f"{warnings} warnings were noted, not one"
    run("generate", "--source=questions.jsonl", "--out=answers.jsonl", "--run=r",
        "--max-new-tokens=8", "--temperature=1", "--num-tasks=2", "--rows-per-part=2", here)  # fmt: skip
    run("evaluate", "--run=r", "--rows=2", "--max-new-tokens=8", "--out=report")


def contents_of(folder: Path) -> dict[str, Any]:
    """Return what is compared of every file: bytes, or documents without what is volatile."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        # Files of one attempt each: which has what, the warning decides. They are compared as a whole.
        if set(name.parts) & VOLATILE_PARTS or name.parts[0] == "runs_instruct":
            continue
        if path.suffix in (".json", ".jsonl"):
            found[str(name)] = list(_documents(path))
        else:
            found[str(name)] = path.read_bytes()
    run = folder / "runs_instruct" / "r"
    return found | {"ledger": _ledger(run), "curves": _curves(run), "samples": _samples(run)}


def _documents(path: Path) -> Iterator[Any]:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    for line in lines:
        document = json.loads(line)
        document.pop("xxh3", None)  # a seal: of what is volatile, too
        yield _steady(document)


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in sorted(value.items()) if k not in VOLATILE_KEYS}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _ledger(run: Path) -> list[Any]:
    return [_steady(event) for event in events_of(run) if event["event"] not in VOLATILE_EVENTS]


def _samples(run: Path) -> dict[str, list[int]]:
    return {str(step): sorted(samples) for step, samples in samples_of(run).items()}


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in sorted(events.Tags()["scalars"])
        if not any(word in tag for word in VOLATILE_CURVES)
    }


def hash_of(content: Any) -> str:
    """Return a hash of what `contents_of` returned for one file."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return xxhash.xxh3_128_hexdigest(data)


def differences(base: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Say how the files differ, the first one first."""
    for name in sorted(base.keys() | now.keys()):
        if name not in now or name not in base:
            yield f"{name}: only {'before' if name in base else 'now'}"
        elif hash_of(base[name]) != hash_of(now[name]):
            yield f"{name}: {_first_difference(base[name], now[name])}"


def _first_difference(before: Any, now: Any, where: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if key not in before or key not in now or before[key] != now[key]:
                return _first_difference(before.get(key), now.get(key), f"{where}/{key}")
    if isinstance(before, list | bytes) and isinstance(now, list | bytes):
        for index, (one, other) in enumerate(zip(before, now, strict=False)):
            if one != other:
                return _first_difference(one, other, f"{where}[{index}]")
        return f"{where} has {len(before)} entries before and {len(now)} now"
    return f"{where} was {str(before)[:200]}, is {str(now)[:200]}"


def main() -> int:
    [revision] = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        tree, contents = Path(scratch) / "base", []
        git = ["git", "-C", str(REPO), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            for code in (tree, REPO):
                folder = Path(scratch) / "run"  # the same place for both: it stands in documents
                folder.mkdir()
                make(code, folder)
                contents.append(contents_of(folder))
                folder.rename(Path(scratch) / f"run-{len(contents)}")
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    base, now = contents
    differing = list(differences(base, now))
    for name, content in now.items():
        print(f"{hash_of(content)}  {name}")
    print("\n".join(f"differs: {line}" for line in differing) or f"equal: all {len(now)} files")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
