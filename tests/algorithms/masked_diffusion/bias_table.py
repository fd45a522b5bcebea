"""Prints how far parallel decoding strays from a Markov chain although the network knows its exact conditionals:

    python -m tests.algorithms.masked_diffusion.bias_table

tokens per forward, and total variation of the bigram distribution, for each decoder at several settings
(arXiv:2602.19619).
"""

from collections.abc import Iterator

import torch

from algorithms.masked_diffusion.decoding import (
    Ancestral,
    EntropyBound,
    MaskedDecoder,
    Remasking,
    Threshold,
    TopConfidence,
    TwoStage,
)
from tests.algorithms.masked_diffusion.conftest import MarkovSource

ROWS, LENGTH = 6000, 33  # the first token of each text is given, the others are one chunk


def settings() -> Iterator[tuple[str, MaskedDecoder]]:
    """Labels and decoders."""
    chunk_len = LENGTH - 1
    yield "first_hitting", Ancestral(chunk_len=chunk_len)
    for steps in (32, 16, 8, 4):
        yield f"ancestral steps={steps}", Ancestral(steps=steps, chunk_len=chunk_len)
    for measure in ("probability", "margin", "entropy"):
        for n in (1, 2, 4, 8):
            decoder = TopConfidence(tokens_per_step=n, confidence=measure, chunk_len=chunk_len)
            yield f"top_confidence {measure} tokens_per_step={n}", decoder
    for threshold in (0.9, 0.7, 0.6, 0.5):
        yield f"threshold {threshold}", Threshold(threshold=threshold, chunk_len=chunk_len)
    for budget in (0.25, 0.5, 1.0, 2.0, 4.0):
        yield f"entropy_bound budget={budget}", EntropyBound(budget=budget, chunk_len=chunk_len)
    for draft, confirm in ((0.8, 0.95), (0.7, 0.9), (0.5, 0.7)):
        decoder = TwoStage(draft_threshold=draft, confirm_threshold=confirm, chunk_len=chunk_len)
        yield f"two_stage {draft}/{confirm}", decoder
    for steps in (32, 8):
        for eta in (0.0, 0.1, 0.5):
            yield f"remasking steps={steps} eta={eta}", Remasking(steps=steps, eta=eta, chunk_len=chunk_len)


def main() -> None:
    source = MarkovSource(6, 1, sharpness=3.0)
    entropy = -(source.bigrams * source.transition.log()).sum()
    ids = source.sample(ROWS, LENGTH, 7)
    given = torch.zeros_like(ids, dtype=torch.bool)
    given[:, 0] = True
    print(f"chain of 6 states, {entropy:.2f} nats a token; {ROWS} true texts: {source.total_variation(ids):.4f}")
    for label, decoder in settings():
        out = source.decode(decoder, ids, given, window=LENGTH, seed=1)
        print(f"{label:44} {out.tokens_per_forward:6.2f} {source.total_variation(out.ids):.4f}", flush=True)


if __name__ == "__main__":
    main()
