"""Runs: configuration, trainer, checkpoints, logging and tasks. The one place where Hydra meets the code.

`load(RUN_FOLDER)` is a trained model in Python: `generate`, `infill` and `score`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.evaluation.text_model import TextModel


def load(path: str | Path, device: str = "cpu") -> "TextModel":
    """The trained model of a run folder or checkpoint; raises ValueError or FileNotFoundError in one sentence."""
    from experiments.run.threads import wait_politely

    wait_politely()
    from experiments.evaluation.text_model import TextModel  # torch is not needed before a model is

    return TextModel(path, device)
