"""Every class that a config or a checkpoint can name.

A checkpoint is rebuilt through this table only, so that loading one never imports anything else.
"""

import importlib
from typing import Any

from experiments.run.errors import near_miss

ALGORITHMS = {
    "gpt": "algorithms.teacher_forcing.gpt:GPT",
    "df_lm": "algorithms.diffusion_forcing.df_lm:DFLM",
    "masked_diffusion": "algorithms.masked_diffusion.masked_diffusion:MaskedDiffusion",
    "block_diffusion": "algorithms.block_diffusion.block_diffusion:BlockDiffusion",
    "diffusion_flow": "algorithms.diffusion_flow.diffusion_flow:DiffusionFlow",
}
EXPERIMENTS = {
    "language_modeling": "experiments.language_modeling:LanguageModeling",
    "benchmark": "experiments.benchmark:Benchmark",
    "decoding": "experiments.decoding:Decoding",
    "comparison": "experiments.comparison:Comparison",
}


def look_up(registry: dict[str, str], name: str, where: str) -> Any:
    """The class registered under `name`; ValueError with the near miss otherwise."""
    if name not in registry:
        raise ValueError(f"{where} is '{name}', which is unknown{near_miss(str(name), registry)}")
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
