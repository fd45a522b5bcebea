"""Records how a model writes one text, for the animations: the same `generate` that every number comes from, traced.

S states, P given tokens on the left, L tokens in all.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.decoder import Request
from datasets.tokenizers import Tokenizer
from experiments.analysis.trace import TraceRecord


def record_trace(
    algorithm: BaseAlgorithm,
    tokenizer: Tokenizer,
    *,
    prompt_ids: Sequence[int],
    prompt_text: str,
    length: int,
    seed: int,
    decoder: Any,
    method: str,
    setting: str,
    suffix_ids: Sequence[int] = (),
) -> TraceRecord:
    """The trace of `length` tokens between prompt_ids (P,) and suffix_ids; `decoder` None is the algorithm's own.

    With an empty `prompt_text` the prompt is a start token, which is no text and left out. The first state is that
    before any pass of the network. Raises ValueError on a suffix that the decoder cannot see.
    """
    device = next(algorithm.parameters()).device
    request = Request.continuing(
        [prompt_ids],
        length=length,
        seeds=[seed],
        suffix=suffix_ids,
        device=device,
        trace=True,
        encode=tokenizer.encode,
    )
    out = algorithm.generate(request, decoder)
    assert out.trace is not None
    P = len(prompt_ids)
    ids = out.trace.tokens[:, 0].cpu().numpy()  # (S, L)
    levels = out.trace.levels[:, 0].double().cpu().numpy().round(6)  # (S, L)
    given = request.given[0].cpu().numpy()  # (L,)
    forwards = out.trace.forwards.numpy()  # (S,)
    if forwards[0] > 0:
        ids, levels = np.concatenate([ids[:1], ids]), np.concatenate([np.where(given, 0.0, 1.0)[None], levels])
        forwards = np.concatenate([[0], forwards])
    texts = {token: tokenizer.decode([token]) for token in np.unique(ids).tolist()}
    start = 0 if prompt_text else P
    return TraceRecord(
        method=method,
        decoder=setting,
        prompt=prompt_text,
        scale=algorithm.trace_scale,
        given=given[start:],
        tokens=[[texts[token] for token in row] for row in ids[:, start:].tolist()],
        levels=levels[:, start:],
        forwards=forwards,
        seconds=out.seconds,
        tokens_per_forward=out.tokens_per_forward,
    )
