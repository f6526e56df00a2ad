"""Where jobs run, and what this machine has for them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from instruct_core.errors import ConfigError
from launch.cluster import gpus, local, memory
from launch.cluster.gpus import Gpus, check_torch_sees, gpu_names, visible_gpus
from launch.cluster.machine import choose_cluster, this_machine
from launch.cluster.memory import free_memory
from tests.conftest import launch
from tests.jobs.test_slurm import fake
from tests.launch.played_slurm import PlayedSlurm

ASK = {
    "preprocess": ["--source=rows.jsonl", "--out=s"],
    "generate": ["--checkpoint=m.pt", "--source=rows.jsonl", "--out=a.jsonl"],
    "finetune": ["--run=r", "--shards=s", "--model=tiny"],
}


@pytest.mark.parametrize("verb", ASK)
def test_slurm_that_does_not_answer_is_no_reason_to_compute_here(
    slurm: PlayedSlurm, desk: Path, shard_set: Path, verb: str
) -> None:
    (desk / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (desk / "s").symlink_to(shard_set) if verb == "finetune" else None
    slurm.is_away()
    before = sorted(desk.rglob("*"))

    done = launch(verb, *ASK[verb], cwd=desk)

    assert done.returncode == 2, done.stdout
    assert "Slurm is installed here and does not answer: sinfo" in done.stderr
    assert "type --cluster local to run here" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(desk.rglob("*")) == before


def test_clients_without_a_cluster_are_no_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "sinfo: fatal: Could not establish a configuration source"
    fake(monkeypatch, tmp_path, "sbatch", "exit 1")
    fake(monkeypatch, tmp_path, "sinfo", f"echo '{said}' >&2; exit 1")

    assert choose_cluster("auto").cluster == "local"


class Driver:
    """NVML with two GPUs of a kind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
        self.free = {0: 40, 1: 30}
        for name, answer in {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetMemoryInfo": lambda handle: type("Info", (), {"free": self.free[handle]}),
            "nvmlDeviceGetCudaComputeCapability": lambda handle: capability,
        }.items():
            monkeypatch.setattr(pynvml, name, answer)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, Gpus(2, 30)),
        ("", Gpus(0)),
        ("-1", Gpus(0)),
        ("0", Gpus(1, 40)),
        ("1,0", Gpus(2, 30)),
        ("GPU-5e1d", Gpus(1, 30)),
    ],
)
def test_gpus_are_those_that_a_job_would_see(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: Gpus
) -> None:
    Driver(monkeypatch, (9, 0))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert visible_gpus() == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1"]), ("1,0", ["1", "0"]), ("", []), ("GPU-5e1d", ["GPU-5e1d"])],
)
def test_gpus_have_the_names_that_a_task_may_be_given(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    Driver(monkeypatch, (9, 0))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert gpu_names(visible_gpus().number) == expected


@pytest.mark.parametrize(("gpu", "seen"), [("3", "3"), (None, "1,3")])
def test_task_sees_the_gpu_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: str | None, seen: str
) -> None:
    started = []

    def start(_: Any, env: dict[str, str], **__: Any) -> SimpleNamespace:
        started.append(env)
        return SimpleNamespace(pid=os.getpid())

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    monkeypatch.setattr(local, "subprocess", SimpleNamespace(Popen=start, DEVNULL=0))

    local.submit_local(len, tmp_path, num_tasks=1, gpu=gpu)

    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == [seen]


@pytest.mark.parametrize(
    ("capability", "has_bf16"), [((7, 5), False), ((8, 0), True), ((8, 6), True)]
)
def test_old_gpus_have_no_bf16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has_bf16: bool
) -> None:
    Driver(monkeypatch, capability)

    assert visible_gpus().has_bf16 == has_bf16


def test_gpus_that_torch_cannot_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "ASK_TORCH", """print('["2.13.0+cpu", null, 0]')""")
    Driver(monkeypatch, (9, 0))

    with pytest.raises(ConfigError, match=r"torch 2.13.0.cpu cannot use the 2 NVIDIA GPUs of this"):
        this_machine()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as the line says
    assert this_machine().num_gpus == 0


def test_gpus_that_torch_can_use_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "ASK_TORCH", """print('["2.13.0", "13.0", 1]')""")

    check_torch_sees(1)


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def in_group(root: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    group(root / "proc/self", cgroup=f"11:cpu:/\n{line}")
    monkeypatch.setattr(memory, "ROOT", root)


def test_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cgroup v2, as a container has it; what is a cache of files can be had back."""
    in_group(tmp_path, monkeypatch, "0::/")
    own = tmp_path / "sys/fs/cgroup"
    group(own, memory__max=5000, memory__current=3000, memory__stat="anon 1\ninactive_file 500")

    assert free_memory() == 2500


def test_tightest_group_above_a_process_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_group(tmp_path, monkeypatch, "0::/slice/session")
    above = tmp_path / "sys/fs/cgroup/slice"
    group(above, memory__max=900, memory__current=100, memory__stat="inactive_file 0")
    group(above / "session", memory__max="max", memory__current=50, memory__stat="inactive_file 0")

    assert free_memory() == 800


@pytest.mark.parametrize("path", ["/job_7", "/docker/5e1d"])
def test_limit_of_the_first_version_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Of a job in its group, and in a container, where the path is the host's."""
    in_group(tmp_path, monkeypatch, f"4:memory:{path}")
    own = tmp_path / "sys/fs/cgroup/memory" / ("job_7" if path == "/job_7" else "")
    stat = "inactive_file 9\ntotal_inactive_file 20"
    group(own, memory__limit_in_bytes=400, memory__usage_in_bytes=300, memory__stat=stat)

    assert free_memory() == 120


def test_machine_without_limits_has_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "ROOT", tmp_path)

    assert free_memory() > 2**20
    assert os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") > free_memory()
