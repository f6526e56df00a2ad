"""
What all benchmarks share: repeats in turn, medians, one JSON line a contender.

    report("preprocess", {"ours": run_ours, "tiktoken": run_tiktoken}, baseline="tiktoken", work=n)

Contenders take turns within each repeat, so that a machine that slows down slows all of them. A
ratio is the median of the per-repeat ratios, and `from_to` their least and largest.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

REPEATS = int(os.environ.get("BENCH_REPEATS", "5"))


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults of the flags, and the lines of the description as they stand."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser of the benchmark that runs; its --help starts with the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m bench.{Path(sys.argv[0]).stem}",
        description=inspect.cleandoc(doc or ""),
        formatter_class=_Help,
    )


def machine() -> str:
    """Return the machine's name for a line of output."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return f"{line.split(':')[1].strip()}, {len(os.sched_getaffinity(0))} cores"
    return platform.processor()


def seconds_of(run: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    started_at = time.perf_counter()
    run()
    return time.perf_counter() - started_at


def report(
    name: str,
    contenders: Mapping[str, Callable[[], float]],
    baseline: str,
    unit: str,
    higher_is_better: bool = True,
) -> dict[str, float]:
    """
    Run every contender REPEATS times, in turn, and print a JSON line for each.

    Args:
        contenders: Name -> function that returns its figure in ``unit``.
        baseline: The contender that ratios are taken against.
        higher_is_better: A ratio above 1 is always an advantage over the baseline.

    Returns:
        The ratio of every contender.
    """
    figures: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(REPEATS):
        for contender, run in contenders.items():
            figures[contender].append(run())
    ratios = {}
    for contender, values in figures.items():
        pairs = list(zip(values, figures[baseline], strict=True))
        turns = [ours / theirs if higher_is_better else theirs / ours for ours, theirs in pairs]
        ratios[contender] = statistics.median(turns)
        line = {
            "bench": name,
            "contender": contender,
            unit: round(statistics.median(values), 4),
            f"times_{baseline}": round(ratios[contender], 3),
            "from_to": [round(min(turns), 3), round(max(turns), 3)],
            "repeats": REPEATS,
            "machine": machine(),
        }
        print(json.dumps(line), flush=True)
    return ratios


def status_of(key: str) -> int:
    """Return a number of bytes that the kernel keeps of this process, as VmRSS or VmHWM; see proc(5)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))
