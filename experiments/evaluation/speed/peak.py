"""What a machine can compute at most: the rate of a large matrix product, measured, and what a data sheet says.

FLOP/s count a multiplication and an addition as two.
"""

import re

import torch

from algorithms.common.device import now

# Dense bf16 with float32 sums, in FLOP/s, by the end of the name that CUDA gives a card; NVIDIA's data sheets of A100,
# H100, H200 and L4, and appendix A of the white paper of the Ada architecture.
SHEETS = {
    r"A100-.*": 312e12,
    r"H100 80GB HBM3": 989.4e12,
    r"H100 PCIe": 756e12,
    r"H200": 989.4e12,
    r"L4": 121e12,
    r"RTX 4090": 165.2e12,
}
ROUNDS = 5


def measured_peak(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """FLOP/s of the best of several products of `size` x `size` matrices, by default as large as to fill the device."""
    n, times = (1024, 4) if device.type == "cpu" else (8192, 10)
    n = size or n
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.mm(a, b)
    seconds = []
    for _ in range(ROUNDS):
        began = now(device)
        for _ in range(times):
            torch.mm(a, b, out=out)
        seconds.append((now(device) - began) / times)
    return 2 * n**3 / min(seconds)


def sheet_peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s of the card's data sheet; None where it is not known here, and beyond 16 bits."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for end, peak in SHEETS.items() if re.search(rf"\b{end}$", name)), None)


def dtype_of(precision: str) -> torch.dtype:
    """What Lightning's `precision` computes matrix products in."""
    halves = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return halves.get(precision.partition("-")[0], torch.float32)
