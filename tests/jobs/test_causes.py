"""Every end of an attempt has a class and a line what to do; what nobody knows stays unknown."""

from __future__ import annotations

import errno
import os

import pytest

from instruct_core.errors import BadRowError, CorruptFileError, NonFiniteError
from jobs.causes import cause_of_text
from jobs.job_folder import describe_error
from jobs.survival.crash import cause_of
from jobs.survival.requeue import too_many_warnings


def os_error(number: int) -> str:
    return describe_error(OSError(number, os.strerror(number), "/shared/x"))


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("cuda:0 has too little memory for --micro-batch-size 8 of 1024 tokens: x", "out of GPU memory"),
        ("cuda:0 has too little memory for the model: x", "out of GPU memory"),
        ("DistBackendError: NCCL error in: x, Cuda failure 2 'out of memory'", "out of GPU memory"),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "out of GPU memory"),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "out of host memory"),
        ("MemoryError: ", "out of host memory"),
        (os_error(errno.ENOMEM), "out of host memory"),
        ("DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited", "network"),
        ("RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer", "network"),
        ("rank 1 hangs: its step has not ended for 60 s.", "network"),
        (os_error(errno.ECONNRESET), "network"),
        (os_error(errno.ENOSPC), "disk full"),
        (os_error(errno.EDQUOT), "disk full"),
        (os_error(errno.ESTALE), "store away"),
        ("a disk or a store does not answer: TimeoutError: no answer", "store away"),
        ("rank 1 on node2: Bus error.", "store away"),
        ("no rank could be started on n7: Communication connection failure.", "node failed"),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "node failed"),
        ("RuntimeError: Slurm gave this job GPUs on n1, and torch 2.13 finds none there.", "node failed"),
        ("lost without a word", "node failed"),
        (describe_error(BadRowError("Row x.jsonl:3 cannot be used")), "data"),
        (describe_error(CorruptFileError("x is corrupt")), "data"),
        ("TypeError: forward() got an unexpected keyword argument", "code"),
        ("ModuleNotFoundError: No module named 'x'", "code"),
        (describe_error(NonFiniteError("10 steps in a row without a finite gradient")), "not finite"),
        (too_many_warnings("step"), "limit"),
        ("FencedError: Run r belongs to attempt 4 now; this is attempt 3", "cancelled"),
        ("rank 3 on node2: Killed.", "unknown"),
        ("", "unknown"),
    ],
)  # fmt: skip
def test_what_was_said_has_a_class_and_one_line_what_to_do(said: str, name: str) -> None:
    cause = cause_of_text(said)

    assert cause.name == name
    assert cause.remedy
    assert "\n" not in cause.remedy


def test_kernel_that_killed_for_memory_is_told_from_other_kills() -> None:
    killed = "srun: error: node2: task 3: Killed\n"
    said = "slurmstepd: error: Detected 1 oom_kill event in StepId=3.0. Some of the step\n" + killed

    assert cause_of([], killed).cause.name == "unknown"
    assert cause_of([], said).cause.name == "out of host memory"
    assert "more --mem" in cause_of([], said).message


def test_what_nobody_knows_is_shown_by_the_last_line_of_its_traceback() -> None:
    cause = cause_of_text("", "Traceback (most recent call last):\n  x\nWeirdSignal: the moon\n")

    assert cause.name == "unknown"
    assert cause.remedy.endswith("it ends with: WeirdSignal: the moon")
