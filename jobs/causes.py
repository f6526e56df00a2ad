"""
Why an attempt ended, as one of a few classes, each with one line what to do.

    cause = cause_of_text("OSError: [Errno 28] No space left on device: '/shared/x'")
    cause.name, cause.remedy                    # "disk full", "make room: ..."

It goes by what was said: the error, the end of its traceback, and what srun and Slurm wrote. What nobody
knows stays `unknown`.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Cause(NamedTuple):
    """A class of ends."""

    name: str
    remedy: str  # one line


# The driver, cuBLAS and NCCL each have words of their own for a GPU that is full.
GPU_IS_FULL = (
    r"CUDA error: out of memory|(CUBLAS|CUDNN|CUFFT)_STATUS_ALLOC_FAILED|"
    r"Cuda failure (\d+ )?'out of memory'"
)
_SAYS = (
    (
        "out of GPU memory",
        "a smaller --micro-batch-size, --activation-checkpointing on, --shard full on several GPUs, or "
        "GPUs with more memory",
        r"has too little memory for (--micro-batch-size|the model)|CUDA out of memory|"
        rf"torch.OutOfMemoryError|{GPU_IS_FULL}",
    ),
    (
        "out of host memory",
        "more --mem, fewer ranks a node, or a smaller --micro-batch-size where CPUs train",
        r"(?i)oom[-_ ]?kill|out[-_ ]of[-_ ]memory|MemoryError|DefaultCPUAllocator|"
        r"cannot allocate memory|\bErrno 12\b",
    ),
    (
        "not finite",
        "a lower --learning-rate in a new --run, or look for broken rows",
        r"without a finite gradient|NonFiniteError",
    ),
    (
        "disk full",
        "make room: python launch/checkpoints.py prune RUN --dry-run; then the same command",
        r"(?i)no space left|quota exceeded|\bErrno (28|122)\b|has no room",
    ),
    (
        "store away",
        "see whether the disk or the bucket answers, then the same command",
        # SIGBUS: a page of a mapped file, as of a library, that the disk did not give.
        r"a disk or a store does not answer|the disk of its folder fails|has not saved for|"
        r"could not be saved before the end|"
        r"\bBus error\b|"
        r"\bErrno (5|107|110|116)\b|Stale file handle|EndpointConnectionError",
    ),
    (
        "node failed",
        "it comes back on other nodes; --exclude NODE keeps it off for good, and tell an administrator",
        r"no rank could be started|NODE_FAIL|[Nn]ode fail|\bXid\b|ECC error|GPUs on \S+, and torch|"
        r"CUDA error: (?!out of memory)|lost without a word|failed the check of its first seconds",
    ),
    (
        "network",
        "it comes back; again: python launch/doctor.py --deep, and see stacks/ in its job folder",
        r"\bNCCL\b|ncclSystemError|[Gg]loo|pair\.cc|ProcessGroup|Connection (reset|closed|refused|timed)|"
        r"ConnectionError|ConnectionResetError|BrokenPipeError|\bhangs: its|No route to host|"
        r"\bErrno (104|111|113)\b",
    ),
    (
        "limit",
        "raise --time, or lower --lead",
        r"warned \d+ times in a row|DUE TO TIME LIMIT|time limit",
    ),
    (
        "data",
        "make the shards again: python launch/preprocess.py; or read the checkpoint with "
        "python launch/checkpoints.py verify RUN",
        r"BadRowError|CorruptFileError|Shards \S+ are|is corrupt|is damaged|is no checkpoint|"
        r"can be loaded|is no shard|Row \S+ cannot be used",
    ),
    (
        "cancelled",
        "nothing: the same command goes on",
        r"CANCELLED|belongs to attempt \d+ now|KeyboardInterrupt",
    ),
    (
        "settings",
        "do what the message says, then the same command",
        r"ConfigError|RunConflictError|cannot go on with other settings|(^|\s)--[a-z-]+ must be|"
        r"is not there: no ",
    ),
    (
        "code",
        "fix it, or begin from a commit that worked; a run keeps the code of its submission",
        r"\b(Type|Attribute|Name|Import|ModuleNotFound|Key|Index|Assertion|Syntax|NotImplemented|"
        r"ZeroDivision|Unbound\w+|Value|Indentation|Recursion)Error\b",
    ),
)

_PATTERNS = tuple((Cause(name, remedy), re.compile(pattern)) for name, remedy, pattern in _SAYS)
CANCELLED = next(cause for cause, _ in _PATTERNS if cause.name == "cancelled")
NODE_FAILED = next(cause for cause, _ in _PATTERNS if cause.name == "node failed")
LIMIT = Cause(
    "limit", "nothing: it was warned ahead of a time limit or a preemption, and comes back"
)
PAUSED = Cause("paused", "python launch/control.py RUN resume")
UNKNOWN = Cause("unknown", "read its log: python launch/logs.py RUN")
# Of ranks that have lost another one; what hangs is ended by Slurm too, and says so itself.
# The first says so of a peer that is gone; of the others its own node may be to blame.
_GONE = r"pair\.cc|unbound_buffer\.cc|Connection (?:reset|closed) by"
PEER_IS_GONE = re.compile(_GONE)
LOST_PEER = re.compile(rf"{_GONE}|NCCL|DistNetworkError")
LAST_CHARACTERS = 4000  # of a traceback that say why


def cause_of_text(error: str, trace: str = "", said: str = "") -> Cause:
    """
    Return the class of an end.

    Args:
        error: One line: what counts most.
        trace: A traceback, of which the end counts where the line says nothing.
        said: What srun and Slurm said beside it.
    """
    for text in (said, error, trace[-LAST_CHARACTERS:].strip().rpartition("\n")[2]):
        for cause, pattern in _PATTERNS:
            if text and pattern.search(text):
                return cause
    last = trace.strip().rpartition("\n")[2][:200]
    return UNKNOWN._replace(remedy=f"{UNKNOWN.remedy}; it ends with: {last}") if last else UNKNOWN
