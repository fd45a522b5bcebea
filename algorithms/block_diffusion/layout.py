"""How a window of tokens is laid out in blocks, and who predicts each of its tokens.

The first token of a block is the clean stream's, which is causal; the others are hidden and restored in the noisy
stream. W tokens of the window, the first of them given, T = W - 1 to be predicted; C clean ones, N noisy ones, M blocks
of the noisy stream, H tokens that may be hidden, S blocks that the clean stream begins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algorithms.common.backbone.masks import RuleBlocks, two_stream_rule


class Layout(nn.Module):
    """Constants of a window of `tokens` in blocks of `block_len`, the last of which may be shorter.

    The noisy stream holds whole blocks, the visible first token of each included; a block of one token needs none. The
    clean stream holds what stands before the last block: nobody sees more of it.
    """

    places: Tensor
    begins: Tensor
    lengths: Tensor
    first: Tensor
    hidden: Tensor
    starts: Tensor
    sources: Tensor

    def __init__(self, tokens: int, block_len: int) -> None:
        super().__init__()
        self.block_len = min(block_len, tokens)
        self.clean = (tokens - 1) // block_len * block_len  # C
        self.noisy = tokens if tokens - self.clean > 1 else self.clean  # N
        if block_len == 1:
            self.noisy = 0
        self.blocks = -(-self.noisy // block_len)  # M
        place = torch.arange(tokens)
        inside = place % block_len > 0
        left = self.noisy - place[: self.noisy : block_len]  # (M,) noisy tokens from the start of a block on
        constants = {
            "places": place[: self.noisy],  # (N,)
            "begins": (place - place % block_len)[: self.noisy],  # (N,) of their blocks
            "lengths": (left - 1).clamp(max=block_len - 1),  # (M,) of a block that may be hidden
            "first": ~inside,  # (W,) whether it begins a block
            "hidden": place[inside],  # (H,) of the noisy stream
            "starts": place[~inside][1:] - 1,  # (S,) of the clean stream, the tokens before block starts
            # Which state each of the last T tokens is predicted from, of the clean ones and then the noisy ones.
            "sources": torch.where(inside, self.clean + place, place - 1)[1:],  # (T,)
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)
        self.seen: RuleBlocks | None = None
        if self.clean and self.noisy:
            rule = two_stream_rule(self.clean, self.begins, bidirectional=True)
            self.seen = RuleBlocks(rule, self.clean + self.noisy)

    def in_text(self, grid: Tensor) -> Tensor:
        """What a grid (B, M, block_len - 1) holds for the tokens of blocks behind their first, as they stand in the
        noisy stream: (B, N), with zeros at first tokens."""
        return F.pad(grid, (1, 0)).flatten(1)[:, : self.noisy]

    def in_grid(self, values: Tensor) -> Tensor:
        """The reverse for values (B, N, ...) of the noisy stream: (B, M, block_len - 1, ...), zeros where a block is
        shorter."""
        short = self.blocks * self.block_len - self.noisy
        whole = F.pad(values, (0, 0) * (values.dim() - 2) + (0, short))
        return whole.unflatten(1, (self.blocks, self.block_len))[:, :, 1:]

    def of_last(self, values: Tensor, firsts: float) -> Tensor:
        """Values (B, N) of the noisy stream for the last T tokens: (B, T), `firsts` where a block begins."""
        values = F.pad(values, (0, len(self.first) - self.noisy))
        return values.masked_fill(self.first, firsts)[:, 1:]
