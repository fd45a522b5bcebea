"""What sets devices apart: float64, which MPS lacks, bf16 under autocast, and when they are done with their work."""

import time

import torch
from torch import Tensor


def float64_device(device: torch.device) -> torch.device:
    """Where float64 is computed beside tensors on `device`: there, or on the CPU where it is MPS, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def full_precision(x: Tensor) -> Tensor:
    """x in float32 at least: of bf16 logits CUDA's autocast leaves the log-softmax of a cross-entropy in bf16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def exact_product(x: Tensor, y: Tensor) -> Tensor:
    """x @ y in float32 at least, under autocast, too: for numbers whose differences count, as in log-densities."""
    with torch.autocast(x.device.type, enabled=False):
        return full_precision(x) @ full_precision(y)


def working_dtype(x: Tensor) -> torch.dtype:
    """What autocast makes of x in a matrix product: it leaves float64; where there is none, x's own."""
    kind = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def now(device: torch.device) -> float:
    """Seconds on the clock, once `device` is done with its work."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()
