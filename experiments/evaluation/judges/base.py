"""Judges: how likely language models that are not under test find texts, in nats per character.

They read texts with their own tokenizers, so that any model can be judged by any GPT; a low value alone is no quality,
as loops have one, too. B texts, N tokens of a text, k windows of it, W tokens of the judge's context, C channels.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datasets.tokenizers import Tokenizer
from experiments.evaluation.judges.windows import TOKENS, windowed_sums

KEY = "experiment.judge"
LOGITS = 2**26  # the most numbers that a judge gives out at once


class Judge(ABC):
    """A causal language model in evaluation mode that texts are put before; `fingerprint` tells its weights from
    others, `context` is how many tokens it sees."""

    def __init__(self, network: nn.Module, *, context: int, start_id: int, vocabulary_size: int) -> None:
        self.network = network.eval()
        self.context = context
        self.start_id = start_id
        self.tokens = min(TOKENS, LOGITS // vocabulary_size)  # read at once
        self.fingerprint = fingerprint(network)

    @abstractmethod
    def check_writer(self, tokenizer: Tokenizer) -> None:
        """Raise ValueError if a model with `tokenizer` can write characters that this judge does not know."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids (N,). Raises ValueError naming characters that the judge does not know."""

    @abstractmethod
    def nll(self, ids: Tensor) -> Tensor:
        """ids (k, W + 1) -> nats (k, W) of each token after the first."""

    @abstractmethod
    def hidden(self, ids: Tensor) -> Tensor:
        """ids (k, W) -> last hidden states (k, W, C), those that the head sees."""

    def nats(self, texts: Sequence[str], prompts: Sequence[str]) -> list[float]:
        """Nats (B,) of each text given its prompt, of which the last tokens that fit into the context count. An empty
        prompt stands for the judge's start token."""
        given = [self.encode(prompt)[-self.context :] if prompt else [self.start_id] for prompt in prompts]
        return self._sums(self.nll, texts, given).tolist()

    def features(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Mean hidden state (B, C) of each text, over the positions that its tokens are predicted from; a text without
        characters has none and is left out."""
        texts = [text for text in texts if text]
        sums = self._sums(lambda ids: self.hidden(ids[:, :-1]), texts, [[self.start_id]] * len(texts))  # (B, C)
        return (sums / torch.tensor([[len(self.encode(text))] for text in texts])).numpy()

    @torch.no_grad()
    def _sums(
        self, network: Callable[[Tensor], Tensor], texts: Sequence[str], given: Sequence[Sequence[int]]
    ) -> Tensor:
        """Sums (B, ...) of what `network` says of each text's tokens."""
        device = next(self.network.parameters()).device
        ids = [torch.tensor([*first, *self.encode(text)]) for first, text in zip(given, texts, strict=True)]
        lengths = [len(first) for first in given]
        return windowed_sums(lambda x: network(x.to(device)), ids, lengths, self.context, tokens=self.tokens)


def fingerprint(module: nn.Module) -> str:
    """Twelve hexadecimal digits of the names and bits of all weights and buffers."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def named(characters: Sequence[str]) -> str:
    return ", ".join(map(repr, characters[:10])) + (", ..." if characters[10:] else "")
