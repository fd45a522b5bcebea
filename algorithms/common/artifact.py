"""Arrays that a method has to show, each with how it is drawn: who draws them need not know the method."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class Artifact:
    """An array worth a picture in the run folder, plots/NAME.png.

    `plot` is `map`, whole numbers from 0 to `top` in a grid, values (rows, columns), or `log_curve`, points with
    values (N,) on a logarithmic axis and heights `y` (N,) from 0 to 1, shown from `low` on. `options` are these and
    the labels, `in_summary` keeps the values in summary.json, too.
    """

    name: str
    values: np.ndarray
    plot: Literal["map", "log_curve"]
    options: dict[str, Any] = field(default_factory=dict)
    in_summary: bool = False
