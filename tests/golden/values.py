"""Reads the golden values beside this file, and compares with them within what float32 rounding explains.

README.md says which program computed each of them.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent
ROUNDINGS = 128  # of float32, at the size of the largest value: what a few layers in another order may differ by


def golden(file: str, case: str) -> dict[str, Tensor]:
    """The arrays `case/name` of a file, by name."""
    with np.load(FOLDER / file) as data:
        return {k.removeprefix(f"{case}/"): torch.tensor(data[k]) for k in data.files if k.startswith(f"{case}/")}


def in_double(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same in float64 where they are floating point: so only the other program's rounding is left."""
    return {key: value.double() if value.is_floating_point() else value for key, value in values.items()}


def assert_golden(actual: Tensor, expected: Tensor) -> None:
    """AssertionError unless `actual` is `expected` up to the rounding of the float32 program that computed it."""
    expected = expected.to(actual)
    size = max(1.0, float(expected.abs().max()))
    rounding = ROUNDINGS * torch.finfo(torch.float32).eps * size
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=rounding)
