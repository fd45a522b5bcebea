"""Checks of user input that the files of this folder share: each error is one sentence with the remedy."""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError, with the nearest valid spelling, unless `value` is one of `choices`."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(choices)}"
        raise ValueError(f"unknown {name} {value!r}: {hint}")


def check_levels(levels: Tensor, low: int, high: int) -> Tensor:
    """Noise levels as int64; ValueError names the first that is not a whole number in low..high."""
    whole = levels.long()
    bad = (levels != whole) | (whole < low) | (whole > high)  # NaN differs from whatever it is cast to
    if bad.any():
        value = levels[torch.nonzero(bad)[0].unbind()].item()
        raise ValueError(f"noise level {value:g} is not a whole number from {low} to {high}")
    return whole
