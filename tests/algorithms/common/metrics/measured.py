"""Metrics by their names, as the registry computes them."""

from collections.abc import Sequence

from algorithms.common.metrics.corpus import CorpusReference, CorpusSample
from algorithms.common.metrics.judged import Judged
from experiments.analysis.metrics import BY_KEY, QUALITY
from experiments.evaluation.metrics import measure

Values = dict[str, float | None]
MARGINS = {name: BY_KEY[name].margin for name in QUALITY}


def of_inputs(*names: str, **inputs: object) -> Values:
    """Those metrics that need one of the inputs `names`."""
    return {key: value for key, value in measure(inputs).items() if {*names} & {*BY_KEY[key].of}}


def of_texts(texts: Sequence[str]) -> Values:
    """Of each text by itself, the mean over texts."""
    return of_inputs("text", text=texts)


def of_sample(sample: CorpusSample) -> Values:
    """Of texts against their corpus, MAUVE left out."""
    found = of_inputs("texts", "sample", texts=sample.texts, sample=sample)
    return {key: value for key, value in found.items() if key != "mauve"}


def of_judged(judged: Judged) -> Values:
    return of_inputs("judged", judged=judged)


def score(reference: CorpusReference, texts: Sequence[str]) -> Values:
    return of_sample(reference.generated(texts))


def real_text(reference: CorpusReference, lengths: Sequence[int], draw: int = 0) -> Values:
    return of_sample(reference.held_out(lengths, draw))
