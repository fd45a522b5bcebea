"""Decoders timed at several numbers of texts, which must be the same texts whatever stands beside them in a batch.

B texts.
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.decoder import Decoder, Generation, Request
from experiments.evaluation.speed.costs import Dispatched, dispatched
from experiments.evaluation.speed.training import Disagreement

SECONDS = 5.0  # for the rounds of one setting, about, of which there is one at least
PATIENCE = 10.0  # seconds of a round, above which it is not begun
COUNTED = 32  # tokens of the texts whose dispatches are counted: the profiler keeps every one


def timed_texts(
    model: BaseAlgorithm,
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    texts: int,
    length: int,
    rounds: int,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, Any]:
    """`texts` texts of `length` tokens behind the prompt, written up to `rounds` times after once for nothing: tokens
    per second over all texts, tokens per forward, and what a token hands to the device. `context` is the precision's.

    Raises Disagreement on a CPU, in float32, unless the first and the last text are what they are alone; elsewhere sums
    of a batch round in another way, and the share of equal tokens is told.
    """

    def write(seeds: Sequence[int], tokens: int = length) -> Generation:
        request = Request.continuing([list(prompt)] * len(seeds), length=tokens, seeds=seeds, device=model.device)
        with context():
            return model.generate(request, decoder)

    seeds = range(texts)
    together = write(seeds)
    ends = [0, texts - 1] if texts > 1 else []
    equal = [(write([seed]).ids[0] == together.ids[seed])[len(prompt) :].float().mean().item() for seed in ends]
    share = statistics.mean(equal or [1.0])
    with context():
        exact = model.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if share < 1 and exact:
        raise Disagreement(f"of {texts} texts in a batch {1 - share:.0%} of the tokens are others than of each alone")
    runs = [write(seeds) for _ in range(max(1, min(rounds, int(SECONDS / together.seconds))))]
    counted = min(length, COUNTED)
    handed = dispatched(lambda: write(seeds, counted), model.device)
    return {
        "tokens_per_second": statistics.median(run.decided / run.seconds for run in runs),
        "tokens_per_forward": together.tokens_per_forward,
        "equal_tokens": share if ends else None,
        "rounds": [run.decided / run.seconds for run in runs],
        **Dispatched(*(None if count is None else round(count / counted) for count in handed))._asdict(),
    }


def expected_seconds(known: Sequence[tuple[int, float]], texts: int) -> float | None:
    """Seconds of a round of `texts` texts, on a line through the last two (texts, seconds) known; None with fewer."""
    if len(known) < 2:
        return None
    (a, before), (b, last) = known[-2:]
    return last + (texts - b) * max(0.0, last - before) / (b - a)
