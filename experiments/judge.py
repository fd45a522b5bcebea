"""A judge: how likely a trained GPT of this project finds texts, in nats per character.

It reads them with its own tokenizer, so that any model can be judged by any GPT; a low figure alone is no quality, as
loops have one, too. N tokens of a text, k windows of it, W tokens of the judge's context.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from algorithms.common.base_algorithm import BaseAlgorithm
from datasets.tokenizers import CharTokenizer, Tokenizer, tokenizer_from_state
from experiments.checkpoint import load_weights, read_checkpoint
from experiments.config import ALGORITHMS, build, look_up
from experiments.run_folder import checkpoint_of

BATCH = 64  # windows read at once
KEY = "experiment.judge"


class Judge:
    """A GPT with its tokenizer, in evaluation mode; `fingerprint` tells its weights from others."""

    def __init__(self, algorithm: BaseAlgorithm, tokenizer: Tokenizer) -> None:
        self.algorithm = algorithm.eval()
        self.tokenizer = tokenizer
        self.context = algorithm.backbone.block_size
        self.fingerprint = fingerprint(algorithm)

    def check_writer(self, tokenizer: Tokenizer) -> None:
        """Raise ValueError if a model with `tokenizer` can write characters that this judge does not know."""
        if not isinstance(self.tokenizer, CharTokenizer):
            return
        remedy = "take a judge trained on the same characters, or with dataset.tokenizer=byte"
        if not isinstance(tokenizer, CharTokenizer):
            raise ValueError(
                f"{KEY} knows {self.tokenizer.vocabulary_size} characters, the model may write any: {remedy}"
            )
        unknown = sorted(set(tokenizer.characters) - set(self.tokenizer.characters))
        if unknown:
            raise ValueError(f"{KEY} has never seen {_named(unknown)}, which the model can write: {remedy}")

    @torch.no_grad()
    def nats_per_character(self, texts: Sequence[str], prompts: Sequence[str]) -> float | None:
        """Nats of all texts, each given its prompt, over their number of characters; None without a character.

        An empty prompt stands for the judge's start token. Raises ValueError naming characters it does not know.
        """
        device = next(self.algorithm.parameters()).device
        generator = torch.Generator(device)  # asked for by every nll, and not drawn from by an exact one
        total = 0.0
        for text, prompt in zip(texts, prompts, strict=True):
            given = self._encode(prompt)[-self.context :] if prompt else [self.tokenizer.start_id]
            ids = torch.tensor([*given, *self._encode(text)], device=device)  # (N,)
            total += windowed_nats(lambda x: self.algorithm.nll(x, generator), ids, len(given), self.context)
        characters = sum(map(len, texts))
        return total / characters if characters else None

    def _encode(self, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(text).tolist()
        except ValueError as error:
            raise ValueError(f"{KEY} cannot read a text: {error}") from error


def windowed_nats(
    nll: Callable[[Tensor], Tensor], ids: Tensor, given: int, context: int, stride: int | None = None
) -> float:
    """Nats of ids[given:] (N - given,), read in windows of `context` + 1 tokens, each token scored once.

    Windows advance by `stride`, by default half a context: after the first of them every token has at least
    `context` - `stride` + 1 tokens before it. `nll` maps ids (k, W + 1) to nats (k, W); 1 <= `given` <= `context`.
    """
    stride = stride or max(1, context // 2)
    N = len(ids)
    width = min(context + 1, N)
    if given >= N:
        return 0.0
    starts = [*range(0, N - width, stride), N - width]
    fresh = [given, *(start + width for start in starts[:-1])]  # first position that each window scores
    total = 0.0
    for first in range(0, len(starts), BATCH):
        begin = torch.tensor(starts[first : first + BATCH], device=ids.device)[:, None]  # (k, 1)
        positions = begin + torch.arange(width, device=ids.device)  # (k, W + 1)
        scored = positions[:, 1:] >= torch.tensor(fresh[first : first + BATCH], device=ids.device)[:, None]  # (k, W)
        total += float(nll(ids[positions])[scored].double().sum())
    return total


def load_judge(path: str) -> Judge:
    """The judge of a run folder or checkpoint. Raises ValueError or FileNotFoundError in one sentence."""
    try:
        file = checkpoint_of(Path(path), ["best.ckpt", "last.ckpt"])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{KEY}: {error}") from error
    checkpoint = read_checkpoint(file)
    if not {"algorithm", "config", "tokenizer"} <= checkpoint.keys():
        raise ValueError(
            f"{KEY}={path} carries no tokenizer: give a run or checkpoint of algorithm=gpt of this project"
        )
    name = checkpoint["algorithm"]
    if name != "gpt":
        raise ValueError(f"{KEY}={path} holds algorithm={name}: a judge is a GPT, whose likelihood is exact and cheap")
    cls = look_up(ALGORITHMS, name, f"{KEY}: algorithm.name")
    tokenizer = tokenizer_from_state(checkpoint["tokenizer"])
    backbone = {"backbone": checkpoint["config"]["algorithm"]["backbone"]}  # all that a judge needs of its settings
    config = build(cls.config_class, backbone, f"{KEY}: algorithm")
    algorithm = cls(config, vocabulary_size=tokenizer.vocabulary_size)
    load_weights(algorithm, checkpoint, file, tokenizer=tokenizer)
    return Judge(algorithm, tokenizer)


def fingerprint(module: nn.Module) -> str:
    """Twelve hexadecimal digits of the names and bits of all weights and buffers."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _named(characters: Sequence[str]) -> str:
    return ", ".join(map(repr, characters[:10])) + (", ..." if characters[10:] else "")
