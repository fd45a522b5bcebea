"""Peaks of machines: what is measured, and what data sheets say of which card."""

import pytest
import torch

from experiments.evaluation.speed.peak import dtype_of, measured_peak, sheet_peak

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


def test_a_peak_is_the_best_of_several_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a mean, which neighbours lower, and a wrong number of operations: 2 n³ a product."""
    clock = iter([0.0, 8.0, 10.0, 14.0, 20.0, 28.0, 30.0, 38.0, 40.0, 48.0])  # five rounds of four products
    monkeypatch.setattr("experiments.evaluation.speed.peak.now", lambda _: next(clock))
    assert measured_peak(CPU, torch.float32, size=10) == 2000.0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_a_data_sheet_is_that_of_the_very_card(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the peak of a card whose name begins alike, and bf16's peak said of float32."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert sheet_peak(GPU, torch.bfloat16) == peak
    assert sheet_peak(GPU, torch.float32) is None and sheet_peak(CPU, torch.bfloat16) is None


def test_precisions_are_those_of_products() -> None:
    """Catches a mixed precision taken for that of the weights."""
    names = {
        "32-true": torch.float32,
        "bf16-mixed": torch.bfloat16,
        "16-mixed": torch.float16,
        "64-true": torch.float64,
    }
    assert {name: dtype_of(name) for name in names} == names
