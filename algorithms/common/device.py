"""What sets devices apart: which of them lack float64, and when they have done what they were told."""

import time

import torch


def float64_device(device: torch.device) -> torch.device:
    """Where float64 is computed beside tensors on `device`: there, or on the CPU where it is MPS, which has none."""
    return torch.device("cpu") if device.type == "mps" else device


def now(device: torch.device) -> float:
    """Seconds on the clock, once `device` has done what it was told."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()
