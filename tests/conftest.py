"""Fixtures that many tests share: small shard sets, launchers as a person runs them."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import submitit  # noqa: F401  before absl, see below

from launch.console import ctrl_c  # noqa: F401  before Ctrl-C is set up, see below
from tests.small_tokenizers import SENTENCES, write_byte_level
from tests.warm_launchers import Launcher, WarmLaunchers

# submitit's set-up of logging closes all handlers there are, and absl's, which comes with rouge-score,
# then closes the stream that pytest captures with: so it comes first here.
gc.disable()  # until all tests are imported, see below
# One thread a process: workers and ranks share the cores, and more threads only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# All that tests start would compile the project anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["INSTRUCT_BAD_NODES"] = ""  # what tests do to nodes is nobody's record
os.environ["HF_HUB_OFFLINE"] = "1"  # read when the client is imported, before any fixture
# A suite that was started in the background ignores Ctrl-C, and so would all that it starts. Nor is it
# for a command that is run in this process.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).resolve().parent.parent
HANGS_SECONDS = 850.0  # what takes longer hangs; a busy machine is no fault
TINY_RUN = [
    "--model=tiny", "--init=random", "--seq-len=64", "--tokens-per-step=512",
    "--micro-batch-size=2", "--learning-rate=1e-3", "--warmup-steps=5", "--eval-every=10",
    "--save-every=5",
]  # fmt: skip
# Each worker takes whole files, in this order: a long one begun last would be waited for by all. Those
# that wait for clocks, of Slurm or of stores, come between those that compute.
LONGEST_FIRST = (
    "slurm/test_failing_disk.py", "slurm/test_coming_back.py", "slurm/test_slow_faults.py",
    "test_drill.py", "slurm/test_faults.py", "test_object_store.py", "stores/test_saves.py",
    "launch/training/test_fit.py", "slurm/test_queue.py", "instruct_core/train/test_sharding.py",
    "stores/test_store.py", "test_resume.py", "slurm/test_start_up.py", "test_world_sizes.py",
    "stores/test_training.py", "launch/test_errors.py", "slurm/test_doctor.py", "test_generate.py",
    "slurm/test_arrays.py", "shared_disk/test_run.py", "instruct_core/checkpoints/test_writer.py",
    "instruct_core/checkpoints/test_crash_s3.py", "slurm/test_inside.py",
    "instruct_core/checkpoints/test_crash.py", "stores/test_away.py", "slurm/test_submission.py",
    "launch/evaluation/test_evaluation.py", "shared_disk/test_last_words.py", "slurm/test_asked.py",
    "slurm/test_sites.py", "test_examples.py", "instruct_core/train/test_compiled.py", "test_lora.py",
    "instruct_core/answers/test_generation.py", "instruct_core/checkpoints/test_late_removals.py",
    "instruct_core/checkpoints/test_sharing.py", "test_preprocess.py", "test_control.py",
    "test_llama_bases.py", "test_positions.py", "test_notify.py", "test_readme.py",
    "test_full_disk.py", "test_sources.py", "test_chats.py", "launch/dialogue/test_dialogue.py",
    "test_tokenizers.py", "instruct_core/train/test_adapter_training.py",
    "instruct_core/train/test_recomputed.py", "jobs/survival/test_guard.py",
    "jobs/survival/test_local_controller.py", "launch/runs/test_checkpoints.py",
    "launch/training/test_attach.py", "launch/training/test_start.py",
    "launch/training/test_debug.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    place = {REPO / "tests" / name: place for place, name in enumerate(LONGEST_FIRST)}
    assert all(path.exists() for path in place), "LONGEST_FIRST names a file that is gone"
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """From now on look for garbage, in what tests make alone: what they import stays."""
    gc.freeze()
    gc.enable()


LAUNCHERS = WarmLaunchers()


@pytest.fixture(scope="session")
def folder_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session", autouse=True)
def life_of_launchers(folder_of_all: Path) -> Iterator[None]:
    LAUNCHERS.notes = folder_of_all
    yield
    LAUNCHERS.close()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test forgets, nothing waits for a host that is not there."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def environment() -> dict[str, str]:
    """Return the environment of a launcher: one thread a rank, so that ranks do not fight."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def launch(
    verb: str, *arguments: str, cwd: Path, typed: str = "", timeout_seconds: float = HANGS_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run a launcher to its end, as a person does who types at it, or a program."""
    return LAUNCHERS.run(verb, arguments, cwd, environment(), timeout_seconds, typed)


def start(verb: str, *arguments: str, cwd: Path) -> Launcher:
    """Start a launcher and return at once."""
    return LAUNCHERS.start(
        verb, arguments, environment(), cwd=cwd, encoding="utf-8", stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def write_rows(path: Path, num_rows: int, words: int = 12) -> Path:
    """Write Alpaca rows of differing lengths as JSON lines."""
    with path.open("w") as file:
        for row in range(num_rows):
            answer = " ".join(f"word{(row * 7 + k) % 97}" for k in range(1 + (row * 5) % words))
            entry = {"instruction": f"Say number {row}.", "input": "", "output": answer}
            file.write(json.dumps(entry) + "\n")
    return path


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first worker who asks for it fills for all; nobody may change it."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "is-made").exists():
            make(folder)
            (folder / "is-made").touch()
    return folder


@pytest.fixture(scope="session")
def rows_file(folder_of_all: Path) -> Path:
    """600 rows: three shards."""
    folder = made_once(
        folder_of_all / "rows", lambda folder: write_rows(folder / "rows.jsonl", 600)
    )
    return folder / "rows.jsonl"


@pytest.fixture(scope="session")
def shard_set(folder_of_all: Path, rows_file: Path) -> Path:
    """A finished shard set of `rows_file`; nobody may change it."""

    def make(cwd: Path) -> None:
        flags = (f"--source={rows_file}", "--out=small", "--num-tasks=1")
        result = launch("preprocess", *flags, cwd=cwd)
        assert result.returncode == 0, result.stderr

    return made_once(folder_of_all / "shards", make) / "small"


@pytest.fixture(scope="session")
def small_base(folder_of_all: Path, rows_file: Path) -> Path:
    """The tokenizer of a base with few tokens: runs that learn them compute half as much."""

    def make(folder: Path) -> None:
        texts = [*SENTENCES, *rows_file.read_text().splitlines()]
        write_byte_level(folder / "base", vocab_size=1000, texts=texts)

    return made_once(folder_of_all / "bases", make) / "base"


@pytest.fixture(scope="session")
def light_shards(folder_of_all: Path, rows_file: Path, small_base: Path) -> Path:
    """A shard set of `rows_file` for a small base, where GPT-2's tokens are not what is proved."""

    def make(cwd: Path) -> None:
        flags = (f"--source={rows_file}", "--out=light", "--num-tasks=1", "--val-rows=2")
        result = launch("preprocess", *flags, f"--tokenizer={small_base}", cwd=cwd)
        assert result.returncode == 0, result.stderr

    return made_once(folder_of_all / "light-shards", make) / "light"


def events_of(run: Path) -> list[dict[str, Any]]:
    """Return all events of a run's ledger as they lie on the disk, attempts in order."""
    return [
        {"attempt": int(path.stem.removeprefix("attempt-")), **json.loads(line)}
        for path in sorted(run.glob("attempt-*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def wait_for(
    condition: Callable[[], Any], what: str, timeout_seconds: float = HANGS_SECONDS
) -> Any:
    """
    Poll until a condition holds and return its value: for what another process will do.

    What takes long to ask, as a Slurm or a store does, is asked less often: the other needs the core.
    """
    asked_at = time.monotonic()
    deadline = asked_at + timeout_seconds
    with _ahead_of_others():
        while not (value := condition()):
            now = time.monotonic()
            assert now < deadline, f"{what} did not happen in {timeout_seconds} s"
            time.sleep(min(0.25, max(0.02, 3 * (now - asked_at))))
            asked_at = time.monotonic()
    return value


@contextmanager
def _ahead_of_others() -> Iterator[None]:
    """Have this thread run as soon as it wakes: on busy cores what it waits for would be over first."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except PermissionError:  # not root's tests
        yield
        return
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def last_read_step(run: Path) -> int:
    """Return the step that rank 0's newest attempt is at, 0 until it reads; needs --record-samples."""
    # Not the newest file: an attempt says that it has resumed before it reads.
    attempts = sorted(run.glob("attempt-*.jsonl"))
    number = attempts[-1].stem.removeprefix("attempt-") if attempts else "none"
    files = list(run.glob(f"samples-{number}-00000.jsonl"))
    lines = files[0].read_text().splitlines() if files else []
    return json.loads(lines[-1])["step"] - 1 if lines else 0  # it reads one step ahead


def rank_pids(run: Path) -> list[int]:
    """Return the process ids of the ranks of a run's newest attempt, rank 0 first."""
    started = [event for event in events_of(run) if event["event"] == "started"]
    return list(started[-1]["pids"]) if started else []


def whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what the lines of a growing file say, but for one that a kill has torn."""
    for line in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def samples_of(run: Path) -> dict[int, set[int]]:
    """Return which samples all ranks together read at each step; a later attempt's word counts."""
    samples: dict[int, dict[str, list[int]]] = {}
    for path in sorted(run.glob("samples-*.jsonl")):
        attempt, rank = path.stem.split("-")[1:]
        for entry in whole_lines(path):
            step = samples.setdefault(entry["step"], {})
            if step and next(iter(step)).split("/")[0] != attempt:
                step.clear()
            step[f"{attempt}/{rank}"] = entry["samples"]
    return {step: {s for part in parts.values() for s in part} for step, parts in samples.items()}


def hashes_of(checkpoints: Path, step: int) -> dict[str, str]:
    """Hash every file of a checkpoint but the manifest: model, optimizer and RNG."""
    folder = checkpoints / f"step-{step:08d}"
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }


@pytest.fixture
def killed_after_test() -> Iterator[list[Launcher]]:
    """Processes in this list are ended when the test is over, whatever happened."""
    processes: list[Launcher] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
