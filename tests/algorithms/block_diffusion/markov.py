"""A Markov chain in a network's place: of each token, what the chain says of it given what its stream may see.

B batch, W window, N tokens of the noisy stream, V states; the mask is V.
"""

from collections.abc import Callable

from torch import Tensor

from algorithms.block_diffusion.decoding import BlockReader
from algorithms.masked_diffusion.decoding import Chunk, ChunkState
from algorithms.masked_diffusion.likelihood import nats_of_logits
from tests.algorithms.masked_diffusion.conftest import MarkovSource


def blocks_of_chain(chain: MarkovSource, block_len: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The network (ids (B, W), x (B, N)) -> logits (B, T, V): first tokens of blocks given the one before, the others
    given what is visible of their block, whose first token always is."""

    def logits(ids: Tensor, x: Tensor) -> Tensor:
        found = chain.transition[ids[:, :-1]]  # (B, T, V)
        for begin in range(0, x.size(1), block_len):
            end = min(begin + block_len, x.size(1))
            inside = chain.conditionals(x[:, begin:end])[:, 1:]
            found[:, begin : end - 1] = inside
        return found.log()

    return logits


def nats_from(logits_of: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda ids, x: nats_of_logits(logits_of(ids, x), ids[:, 1:])


def entropy_of(chain: MarkovSource, length: int) -> float:
    """Nats of `length` tokens given the first of them."""
    return float(-(chain.bigrams * chain.transition.log()).sum() * (length - 1))


class ChainReader(BlockReader):
    """A text that is read block by block by the chain."""

    def __init__(self, chain: MarkovSource, *, block_len: int, window: int) -> None:
        self.chain, self.width, self.window = chain, block_len, window

    def enter(self, chunk: Chunk, text: Tensor, rows: list[int], fresh: list[int]) -> tuple[int, Tensor | None]:
        if chunk.begin > chunk.start or chunk.start == chunk.past:
            return 0, None
        return 1, self.chain.transition[text[fresh, chunk.begin - 1]].log()

    def __call__(self, x: Tensor, chunk: slice, state: ChunkState) -> Tensor:
        return self.chain.conditionals(x)[:, chunk].log()
