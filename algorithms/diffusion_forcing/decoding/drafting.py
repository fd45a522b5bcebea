"""Drafts of Diffusion Forcing: a window of pure noise behind a token, denoised in one step.

B batch, R rows, n drafted tokens, V vocabulary.
"""

import torch
from torch import Tensor

from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import invert
from algorithms.common.speculation import Drafter, Probabilities
from algorithms.diffusion_forcing.models import ShiftedDenoiser
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess


class NoiseDrafter(Drafter):
    """A window of n tokens of noise drafts n tokens, each given the one before it where the network can be told."""

    def __init__(self, denoiser: ShiftedDenoiser, process: GaussianProcess, drafts: int) -> None:
        self.denoiser, self.process = denoiser, process
        self.network, self.context = denoiser.model, denoiser.block_size
        self.drafts = self.width = drafts

    def begin(self, random: RowRandom) -> None:
        """One draw of noise (B, n, n_embd) for a whole text, as any drafts leave its distribution what it is."""
        table = self.denoiser.table()
        x = random.normal(self.width, table.size(1)).to(table)
        abar = self.process.alphas_cumprod[-1].expand(x.shape[:2])
        self.noise = self.denoiser.read_channel(x, abar, table)

    def windows(self, rows: Tensor, tokens: Tensor) -> Tensor:
        return self.noise[rows].repeat(1, tokens.size(1), 1)

    def logits(self, states: Tensor) -> Tensor:
        return self.network.lm_head(states)

    def draft(
        self, window: Tensor, token: Tensor, uniform: Tensor, probabilities: Probabilities
    ) -> tuple[Tensor, Tensor]:
        window = self.denoiser.refine(window)
        if not self.denoiser.chains:
            q = probabilities(self.denoiser.head(window))
            return invert(q, uniform).to(token.device), q
        drafts, found = [token[:, None]], []
        for i in range(self.width):
            left = self.denoiser.left(drafts[-1], torch.ones_like(drafts[-1], dtype=torch.bool))
            q = probabilities(self.denoiser.head(window[:, i : i + 1], None, left))
            drafts.append(invert(q, uniform[:, i : i + 1]).to(token.device))
            found.append(q)
        return torch.cat(drafts[1:], dim=1), torch.cat(found, dim=1)
