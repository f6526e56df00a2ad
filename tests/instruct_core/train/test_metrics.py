"""What a GPU could do at most, by its name."""

from __future__ import annotations

import pytest

from instruct_core.train.metrics import peak_of


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX A4000", None),
        ("Tesla T4", None),
    ],
)
def test_peak_is_that_of_the_very_gpu(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak
