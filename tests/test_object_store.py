"""
Runs on a real S3 server: the same commands with URLs, a server that dies, and no secret anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from instruct_core.checkpoints.steps import committed_steps, folder_of
from instruct_core.events import Saved
from instruct_core.storage.store import Store
from jobs.events import Resumed
from jobs.ledger import read_ledger
from tests.conftest import HANGS_SECONDS, TINY_RUN, events_of, hashes_of, launch, start, wait_for
from tests.s3_server import KEY, SECRET, S3Server

STEPS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, which runs again for the next test."""
    server.use(monkeypatch)
    yield server
    if not server.is_running():
        server.start()


def arguments(shards: object, checkpoints: str, *more: str) -> list[str]:
    return [
        f"--shards={shards}", f"--checkpoints={checkpoints}", "--run=r", f"--max-steps={STEPS}",
        "--gpus=2", *TINY_RUN, "--tokens-per-step=256", "--micro-batch-size=1", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shard_set: Path) -> dict[str, str]:
    """The files of the last checkpoint of a run on a disk that nobody hit."""
    cwd = tmp_path_factory.mktemp("undisturbed")
    result = launch("finetune", *arguments(shard_set, "c"), cwd=cwd)
    assert result.returncode == 0, result.stderr
    return hashes_of(cwd / "c" / "r", STEPS)


def downloaded(store: Store, step: int, folder: Path) -> dict[str, str]:
    target = folder / f"step-{step:08d}"
    target.mkdir(parents=True)
    saved = store / folder_of(store, step)
    for name in saved.names():
        (target / name).write_bytes(saved.read(name))
    return hashes_of(folder, step)


def test_server_killed_in_the_middle_of_a_save_loses_nothing(
    s3: S3Server, tmp_path: Path, shard_set: Path, undisturbed: dict[str, str]
) -> None:
    """Two ranks; kill -9 while a step's objects arrive; the run goes on, and ends with the same bits."""
    url = f"{s3.url}/killed"
    store = Store(url) / "r"
    launcher = start("finetune", *arguments(shard_set, url), cwd=tmp_path)
    try:
        wait_for(lambda: committed_steps(store), "the first save")
        wait_for(
            lambda: any(
                name.startswith(("step-00000010/", "step-00000015/")) for name in store.tree()
            ),
            "the objects of a later step",
        )
        s3.kill()
        run = tmp_path / "runs_instruct" / "r"
        wait_for(
            lambda: any(event["event"] == "save_failed" for event in events_of(run)),
            "a report of the failed save",
        )
        s3.start()
        said, errors = launcher.communicate(timeout=HANGS_SECONDS)
    finally:
        launcher.kill()

    assert launcher.returncode == 0, said + errors
    assert "not saved: " in said
    assert "training goes on" in said
    events = events_of(run)
    assert len([event for event in events if event["event"] == "started"]) == 1
    assert committed_steps(store)[-1] == STEPS
    assert downloaded(store, STEPS, tmp_path / "down") == undisturbed


def test_server_away_for_longer_than_a_start_waits_costs_no_start_that_counts(
    s3: S3Server, tmp_path: Path, shard_set: Path, undisturbed: dict[str, str]
) -> None:
    """It goes when the ranks have met, and comes back when they have been started again."""
    url = f"{s3.url}/away"
    store, run = Store(url) / "r", tmp_path / "runs_instruct" / "r"
    wait = "--max-unsaved-minutes=0.25"  # as long a start waits too
    launcher = start("finetune", *arguments(shard_set, url, wait), cwd=tmp_path)
    try:
        wait_for(lambda: list(run.glob("job/*/rendezvous/*")), "the ranks")
        s3.kill()
        wait_for(lambda: len(list(run.glob("job/*/rendezvous/*"))) == 2, "the next start")
        s3.start()
        said, errors = launcher.communicate(timeout=HANGS_SECONDS)
    finally:
        launcher.kill()

    assert launcher.returncode == 0, said + errors
    log = "".join(path.read_text() for path in run.glob("job/*/*_0_log.out"))
    assert "a disk or a store does not answer: " in log
    assert not list(run.glob("job/*/crashes.json")), "no crash is counted"
    assert committed_steps(store)[-1] == STEPS
    assert downloaded(store, STEPS, tmp_path / "down") == undisturbed


def test_run_in_a_bucket_is_asked_to_save_to_pause_and_to_be_another_one(
    s3: S3Server, tmp_path: Path, shard_set: Path
) -> None:
    checkpoints, runs = f"{s3.url}/asked/c", f"{s3.url}/asked/runs"
    words = (f"--runs={runs}", "--gpus=1", "--max-steps=1000000", "--save-every=1000000")
    launcher = start("finetune", *arguments(shard_set, checkpoints, *words), cwd=tmp_path)

    def control(*words: str) -> str:
        result = launch("control", *words, f"--checkpoints={checkpoints}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    try:
        ledger = Store(runs) / "r"
        wait_for(lambda: any(isinstance(e.event, Resumed) for e in read_ledger(ledger)), "a start")
        saves = control("r", "save")
        wait_for(lambda: committed_steps(Store(checkpoints) / "r"), "the save")
        pauses = control("r", "pause")
        said, errors = launcher.communicate(timeout=HANGS_SECONDS)
    finally:
        launcher.kill()
    shown = launch("status", f"--checkpoints={checkpoints}", cwd=tmp_path).stdout
    renamed = control("r", "rename", "other")
    stopped = control("other", "stop")
    removed = control("other", "remove")

    assert saves == "Run r saves before its next step, and goes on.\n"
    assert pauses.startswith("Run r saves at its next step, and ends.\n"), said + errors
    assert " paused " in shown
    assert renamed.startswith("Run r is other now: ")
    assert stopped.startswith("Run other is stopped: resume does not start it any more.\n")
    assert "other" in removed
    left = [name for name in Store(f"{s3.url}/asked").tree() if name]  # the place itself may stay
    assert left == []


def test_everything_on_s3_from_rows_to_an_answer(
    s3: S3Server, tmp_path: Path, rows_file: Path
) -> None:
    shards, checkpoints, runs = (f"{s3.url}/all/{name}" for name in ("shards", "c", "runs"))
    place = f"--checkpoints={checkpoints}"

    def run(verb: str, *words: str) -> str:
        result = launch(verb, *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    run("preprocess", f"--source={rows_file}", f"--out={shards}", "--num-tasks=2")
    run("finetune", *arguments(shards, checkpoints, f"--runs={runs}", "--max-steps=10", "--gpus=1"))
    again = run("finetune", "--run=r", place, "--max-steps=12")
    assert "Going on from step 10" in again
    assert "finished" in run("status", place)
    assert run("checkpoints", "verify", "r", place).count("every byte") == 3
    run("checkpoints", "export", "r", place, "--out=model")
    assert run("chat", "--run=r", place, "--prompt=Say 1", "--max-new-tokens=2").strip()

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.vocab_size == len(tokenizer) == 50257
    events = [entry.event for entry in read_ledger(Store(runs) / "r")]
    assert [event.step for event in events if isinstance(event, Saved)] == [5, 10, 12]
    assert sum("events.out.tfevents" in name for name in (Store(runs) / "r").names()) == 2
    for text in (*_texts(tmp_path), *_objects(Store(f"{s3.url}/all"))):
        assert SECRET.encode() not in text
        assert KEY.encode() not in text


def _texts(folder: Path) -> Iterator[bytes]:
    """Yield all that jobs have left on this machine: logs, pickles, scripts, reports."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            yield path.read_bytes()


def _objects(store: Store) -> Iterator[bytes]:
    for name in store.tree():
        if not name.endswith(".safetensors"):
            yield store.read(name)


TINY = " ".join(TINY_RUN)
PLACES = {
    "--checkpoints s3://nobody-has-this/c": "there is no bucket nobody-has-this",
    "--runs s3://nobody-has-this/c": "there is no bucket nobody-has-this",
    "--shards s3://bucket/none": "are not there or not finished",
    "--checkpoints s3://key:password@bucket/c": "carries a password. Take it out",
    "--checkpoints s3://bucket/c?X-Amz-Signature=12": "carries a password. Take it out",
    "--checkpoints memory://c": "memory ends with its process",
    "--runs s3://bucket/t --record-samples": "--record-samples needs --runs on a disk",
}
ENVIRONMENTS = {
    "wrong secret": ({"AWS_SECRET_ACCESS_KEY": "wrong-secret-value"}, "signature"),
    "wrong key": ({"AWS_ACCESS_KEY_ID": "nobody-knows-this"}, "access key"),
    "nobody there": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Could not connect"),
}


def refused(cwd: Path, shards: Path, words: str, **env: str) -> str:
    """Launch, and return the one line of a refusal that changed nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        typed = words if "--shards" in words else f"--shards {shards} {words}"
        result = launch("finetune", "--run=new", *typed.split(), *TINY_RUN, cwd=cwd)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list(cwd.iterdir()) == []
    return result.stderr


@pytest.mark.parametrize("words", PLACES)
def test_place_that_cannot_be_used_is_one_line_before_anything_is_queued(
    s3: S3Server, tmp_path: Path, shard_set: Path, words: str
) -> None:
    said = refused(tmp_path, shard_set, words)

    assert PLACES[words] in said
    assert "password@" not in said
    assert "Signature=12" not in said


@pytest.mark.parametrize("what", ENVIRONMENTS)
def test_store_that_refuses_us_is_one_line_before_anything_is_queued(
    s3: S3Server, tmp_path: Path, shard_set: Path, what: str
) -> None:
    env, expected = ENVIRONMENTS[what]

    said = refused(tmp_path, shard_set, f"--checkpoints {s3.url}/c", **env)

    assert expected in said
    assert "--checkpoints s3://bucket/c cannot be used" in said
    assert not any(value in said for name, value in env.items() if "KEY" in name)


def test_dry_run_writes_nothing_to_a_bucket(s3: S3Server, tmp_path: Path, shard_set: Path) -> None:
    url = f"{s3.url}/dry"

    result = launch("finetune", *arguments(shard_set, url, "--dry-run"), cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert Store(url).tree() == {}
