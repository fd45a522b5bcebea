"""A Markov chain whose tokens are seen through Gaussian noise, and its exact conditionals in a network's place.

R rows, T tokens, C embedding channels, V states; SNRs are those of a coordinate. The chain: MarkovSource.
"""

import torch
from torch import Tensor


def evidence(x: Tensor, snr: Tensor, table: Tensor) -> Tensor:
    """p(x_l | v) up to a factor, from x (..., C) at snr (...): (..., V), the largest of them 1."""
    abar = (snr / (1 + snr))[..., None, None]
    distance = (x[..., None, :] - abar.sqrt() * table).square().sum(-1)  # (..., V)
    logs = -distance / (2 * (1 - abar[..., 0]))
    return (logs - logs.amax(-1, keepdim=True)).exp()


class ExactPrior:
    """p(token | clean tokens before the window, other noisy tokens of it), by forward-backward.

    A filter sees only the noisy tokens before it, as a causal network does; a smoother those after it too.
    """

    def __init__(self, transition: Tensor, table: Tensor, *, smoother: bool) -> None:
        self.transition, self.table, self.smoother = transition, table, smoother  # (V, V), (V, C)

    def __call__(self, ids: Tensor, x: Tensor, snr: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        alone = self.transition[ids[:, :-1]]  # (R, T, V)
        seen = evidence(x, snr, self.table)
        same = (begins[1:] == begins[:-1]).tolist()  # whether l + 1 is in the window of l
        forward = [alone[:, 0]]  # p(v_l | clean tokens, noisy ones before l)
        for place, joined in enumerate(same):
            step = (forward[-1] * seen[:, place]) @ self.transition
            forward.append(step / step.sum(-1, keepdim=True) if joined else alone[:, place + 1])
        if not self.smoother:
            return alone.log(), torch.stack(forward, 1).log()
        backward = [torch.ones_like(forward[0])]  # p(noisy tokens after l | v_l) up to a factor
        for place, joined in reversed(list(enumerate(same))):
            step = (backward[-1] * seen[:, place + 1]) @ self.transition.T
            backward.append(step / step.sum(-1, keepdim=True) if joined else torch.ones_like(step))
        return alone.log(), (torch.stack(forward, 1) * torch.stack(backward[::-1], 1)).log()


class SamePrior:
    """Fixed logits (V,) for what a window shows, whatever it is; the chain's own for the clean past."""

    def __init__(self, transition: Tensor, logits: Tensor) -> None:
        self.transition, self.logits = transition, logits

    def __call__(self, ids: Tensor, x: Tensor, snr: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        alone = self.transition[ids[:, :-1]].log()
        return alone, self.logits.expand_as(alone)


class Recording:
    """A prior that keeps what it was shown."""

    def __init__(self, prior: ExactPrior) -> None:
        self.prior = prior
        self.shown: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, ids: Tensor, x: Tensor, snr: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        self.shown.append((x, snr, begins))
        return self.prior(ids, x, snr, begins)
