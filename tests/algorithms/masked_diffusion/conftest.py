"""Doubles for the decoders of masked diffusion: networks that are tables, a Markov source with its exact conditionals.

tests/golden/tiny_diffusion_decoding.npz holds decodings of the original program, whose mask is token 0; here the mask
is the last token, and its token j is our j - 1. B batch, R rows, L or W tokens, V vocabulary without the mask.
"""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms.common.decoder import Generation, TraceRecorder
from algorithms.common.randomness import RowRandom
from algorithms.masked_diffusion.decoding import ChunkState, MaskedDecoder
from tests.algorithms.writing import fill
from tests.golden.values import FOLDER


class TableNetwork:
    """logits[t] = P[t] + A[x[t - 1]] + B[x[t + 1]], the mask beyond either end; keeps the windows that it was shown."""

    def __init__(self, P: Tensor, A: Tensor, B: Tensor) -> None:
        self.P, self.A, self.B = P, A, B  # (W, V), (V + 1, V), (V + 1, V)
        self.V = P.size(-1)
        self.seen: list[tuple[Tensor, slice]] = []

    @classmethod
    def random(cls, V: int, window: int, seed: int, *, scale: float = 2.0) -> "TableNetwork":
        generator = torch.Generator().manual_seed(seed)
        shapes = (window, V), (V + 1, V), (V + 1, V)
        return cls(*(scale * torch.randn(shape, generator=generator) for shape in shapes))

    def __call__(self, x: Tensor, chunk: slice, state: ChunkState) -> Tensor:
        self.seen.append((x.clone(), chunk))
        left, right = F.pad(x[:, :-1], (1, 0), value=self.V), F.pad(x[:, 1:], (0, 1), value=self.V)
        return (self.P[: x.size(1)] + self.A[left] + self.B[right])[:, chunk]  # (R, K, V)

    def decode(
        self,
        ids: Tensor,
        given: Tensor,
        decoder: MaskedDecoder,
        seeds: Sequence[int],
        *,
        first: int = 0,
        trace: bool = False,
    ) -> Generation:
        """The decoder's loop with windows as wide as the table."""
        return fill(
            decoder,
            self,
            ids,
            given,
            random=RowRandom(seeds),
            mask_id=self.V,
            window=self.P.size(0),
            first=first,
            recorder=recorder_of(ids) if trace else None,
        )


def recorder_of(ids: Tensor) -> TraceRecorder:
    """A recorder for texts like ids (B, L)."""
    return TraceRecorder(SimpleNamespace(ids=ids, trace=True))


class FlowTable:
    """A table and the flow of the original: above a share of 0.35 masked, its logits are blended in."""

    def __init__(self, table: TableNetwork, E: Tensor, F: Tensor, flow_step: float) -> None:
        self.table, self.E, self.F, self.flow_step = table, E, F, flow_step  # E, F: (V + 1, C)

    def __call__(self, x: Tensor, chunk: slice, state: ChunkState) -> Tensor:
        logits, share = self.table(x, chunk, state), state.remaining.float()[:, None, None]
        velocity = torch.tanh(self.F[x[:, chunk]] + (1 - share))  # (R, K, C)
        flow = ((self.E[x[:, chunk]] + self.flow_step * velocity) @ self.E.T)[..., :-1]
        blend = (0.25 + 0.55 * share).clamp(max=0.8)
        return torch.where(share > 0.35, (1 - blend) * logits + blend * flow, logits)


class ZeroRandom:
    """Uniforms that are all 0: every draw takes the most probable candidate."""

    def uniform(self, *shape: int, rows: Sequence[int]) -> Tensor:
        return torch.zeros(len(rows), *shape, dtype=torch.float64)


class GoldenDecodings:
    """The original's decodings by number."""

    def __init__(self) -> None:
        self.arrays = np.load(FOLDER / "tiny_diffusion_decoding.npz")
        self.cases: list[dict[str, Any]] = json.loads(str(self.arrays["meta"]))

    def ids(self, case: int, name: str) -> Tensor:
        """Their prompt or tokens (L,), in our numbering."""
        return torch.from_numpy(self.arrays[f"decode/{case}/{name}"]) - 1

    def network(self, case: int) -> TableNetwork | FlowTable:
        meta = self.cases[case]
        theirs = {k: torch.from_numpy(self.arrays[f"decode/{case}/{k}"]) for k in "PAB"}
        P = theirs["P"][:, 1:]
        A, B = (theirs[k].roll(-1, 0)[:, 1:] for k in "AB")  # the mask's row goes last, its column away
        table = TableNetwork(P, A, B)
        if meta["module"] == "diffusion":
            return table
        E, F = (torch.from_numpy(self.arrays[f"decode/{case}/{k}"]).roll(-1, 0) for k in "EF")
        return FlowTable(table, E, F, meta["flow_step"])

    def decode(self, case: int, decoder: MaskedDecoder) -> Generation:
        meta, prompt = self.cases[case], self.ids(case, "prompt")
        ids = F.pad(prompt, (0, meta["max_new_tokens"]))[None]
        given = torch.arange(ids.size(1))[None] < prompt.numel()
        return fill(
            decoder,
            self.network(case),
            ids,
            given,
            random=ZeroRandom(),
            mask_id=65,
            window=meta["block_size"],
            first=prompt.numel(),
        )


class SharedRandom:
    """Uniforms of one generator for all rows: fast where rows need not be independent of their batch."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int, rows: Sequence[int]) -> Tensor:
        return torch.rand(len(rows), *shape, generator=self.generator, dtype=torch.float64)


class MarkovSource:
    """A stationary Markov chain, and a network that knows it: its predictions are the chain's exact conditionals."""

    def __init__(self, V: int = 4, seed: int = 0, *, sharpness: float = 1.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.V = V
        self.transition = (sharpness * torch.randn(V, V, generator=generator, dtype=torch.float64)).softmax(-1)
        self.stationary = torch.linalg.matrix_power(self.transition, 200)[0]  # (V,)

    @property
    def bigrams(self) -> Tensor:
        """The distribution (V, V) of two neighbours."""
        return self.stationary[:, None] * self.transition

    def sample(self, rows: int, length: int, seed: int) -> Tensor:
        """Texts (rows, length) of the chain."""
        generator = torch.Generator().manual_seed(seed)
        ids = [torch.multinomial(self.stationary, rows, replacement=True, generator=generator)]
        for _ in range(length - 1):
            ids.append(torch.multinomial(self.transition[ids[-1]], 1, generator=generator).squeeze(-1))
        return torch.stack(ids, dim=1)

    def conditionals(self, x: Tensor) -> Tensor:
        """p(x_l | all visible tokens) of windows x (R, W) with masks V: (R, W, V), by forward-backward."""
        seen = torch.cat([torch.eye(self.V, dtype=torch.float64), torch.ones(1, self.V, dtype=torch.float64)])
        evidence = seen[x]  # (R, W, V)
        W = x.size(1)
        forward = [self.stationary.expand(x.size(0), -1)]  # p(x_l, what is seen before l)
        for position in range(W - 1):
            forward.append((forward[-1] * evidence[:, position]) @ self.transition)
        backward = [torch.ones_like(forward[0])]  # p(what is seen after l | x_l)
        for position in range(W - 1, 0, -1):
            backward.append((backward[-1] * evidence[:, position]) @ self.transition.T)
        joint = torch.stack(forward, 1) * evidence * torch.stack(backward[::-1], 1)
        return joint / joint.sum(-1, keepdim=True)

    def __call__(self, x: Tensor, chunk: slice, state: ChunkState) -> Tensor:
        return self.conditionals(x)[:, chunk].log()

    def decode(self, decoder: MaskedDecoder, ids: Tensor, given: Tensor, *, window: int, seed: int = 0) -> Generation:
        """Decode what is not given of ids (B, L) with the exact conditionals; the first token is given."""
        return fill(
            decoder,
            self,
            ids,
            given,
            random=SharedRandom(seed),
            mask_id=self.V,
            window=window,
            first=1,
        )

    def total_variation(self, ids: Tensor) -> float:
        """Distance of the bigrams of ids (B, L) from the chain's distribution."""
        pairs = ids[:, :-1] * self.V + ids[:, 1:]
        shares = torch.bincount(pairs.flatten(), minlength=self.V**2).double() / pairs.numel()
        return float((shares - self.bigrams.flatten()).abs().sum() / 2)


@pytest.fixture(scope="session")
def golden() -> GoldenDecodings:
    return GoldenDecodings()


@pytest.fixture(scope="session")
def table() -> type[TableNetwork]:
    return TableNetwork


@pytest.fixture(scope="session")
def markov() -> MarkovSource:
    return MarkovSource()
