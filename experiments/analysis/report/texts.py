"""Texts for people to read: samples of all methods side by side, and what the controls write."""

from collections.abc import Iterator
from typing import Any

from experiments.analysis import decoding_table as table
from experiments.analysis.report import naming
from experiments.analysis.report.comparison import REAL, Comparison, Setting
from experiments.analysis.report.document import Block, Sample, Samples, note, say

SHOWN = 3  # texts of each method


def side_by_side(comparison: Comparison) -> Iterator[Block]:
    """The section of samples: the first texts of every method's default setting, and real text beside them."""
    yield say(
        "What each method writes with its default decoder at temperature 1, and real text beside it: the same "
        "prompt and sampling seed for all, the first texts of the run and not chosen ones. "
        "A few texts say how a method fails, not how often."
    )
    seeds = [seed for key in comparison.defaults for seed in comparison.samples.get(key, ())]
    if not seeds:
        yield note("No samples were kept.")
        return
    seed = min(seeds)
    records = {
        key: comparison.samples[key][seed]
        for key in (*comparison.defaults, REAL)
        if seed in comparison.samples.get(key, ())
    }
    for index in range(min(SHOWN, max(len(record["texts"]) for record in records.values()))):
        shown = [
            Sample(
                _named(comparison, key), naming.colour(comparison, key[0]), _prompt(key, record), record["texts"][index]
            )
            for key, record in records.items()
            if index < len(record["texts"])
        ]
        yield Samples(f"Text {index + 1}, sampling seed {seed}", shown)
    if REAL not in records:
        yield note("No real text of the same size was kept beside them.")
    elif any(record["prompt"] for record in records.values()):
        yield note("Real text continues its own beginning, not the prompt of the methods.")


def _named(comparison: Comparison, key: Setting) -> str:
    """Who wrote a text, with the training seed where there are several."""
    seed = "" if key == REAL else naming.of_first(comparison, key[0])
    return ", ".join(filter(None, (key[0], seed)))


def of_controls(comparison: Comparison) -> Samples | None:
    """The first text of every control that has one."""
    shown = []
    for key in comparison.controls:
        records = comparison.samples.get(key)
        if records and records[min(records)]["texts"]:
            record = records[min(records)]
            colour = naming.colour(comparison, key[0])
            shown.append(Sample(naming.sampler(key), colour, _prompt(key, record), record["texts"][0]))
    return Samples("The first text of each control", shown) if shown else None


def _prompt(key: Setting, record: dict[str, Any]) -> str:
    """What a text continues; texts without a model continue nothing that is shown."""
    return "" if key[0] in table.MODELLESS else record["prompt"]
