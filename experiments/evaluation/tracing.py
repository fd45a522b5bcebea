"""Records how a model writes one text, for the animations: the same `generate` that every number comes from, traced.

S states, L tokens in all.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.decoder import Request
from datasets.tokenizers import Tokenizer
from experiments.analysis.trace import TraceRecord
from experiments.evaluation.judges.base import fingerprint
from experiments.evaluation.measurement import Assignment
from experiments.evaluation.settings import Setting


def record_trace(
    algorithm: BaseAlgorithm,
    tokenizer: Tokenizer,
    assignment: Assignment,
    setting: Setting,
    *,
    method: str,
    seed: int,
    suffix_ids: Sequence[int] = (),
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> TraceRecord:
    """The trace of one text between the assignment's prompt and suffix_ids, as `method` writes it with a setting in the
    `context` of a run's precision.

    A prompt without text is a start token, which is left out. The first state is that before any pass of the network.
    Raises ValueError on a suffix that the decoder cannot see.
    """
    request = Request.continuing(
        [assignment.prompt],
        length=assignment.length,
        seeds=[seed],
        suffix=suffix_ids,
        device=algorithm.device,
        trace=True,
        encode=tokenizer.encode,
    )
    with context():
        out = algorithm.generate(request, setting.decoder)
    assert out.trace is not None
    ids = out.trace.tokens[:, 0].cpu().numpy()  # (S, L)
    levels = out.trace.levels[:, 0].cpu().double().numpy().round(6)  # (S, L)
    given = request.given[0].cpu().numpy()  # (L,)
    forwards = out.trace.forwards.numpy()  # (S,)
    if forwards[0] > 0:
        ids, levels = np.concatenate([ids[:1], ids]), np.concatenate([np.where(given, 0.0, 1.0)[None], levels])
        forwards = np.concatenate([[0], forwards])
    texts = {token: tokenizer.decode([token]) for token in np.unique(ids).tolist()}
    start = 0 if assignment.text else len(assignment.prompt)
    return TraceRecord(
        method=method,
        decoder=setting.label,
        prompt=assignment.text,
        scale=algorithm.trace_scale,
        given=given[start:],
        tokens=[[texts[token] for token in row] for row in ids[:, start:].tolist()],
        levels=levels[:, start:],
        forwards=forwards,
        seconds=out.seconds,
        tokens_per_forward=out.tokens_per_forward,
        weights=fingerprint(algorithm),
    )
