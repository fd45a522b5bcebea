"""JudgePanel: how likely language models that are not under test find texts, in nats per character.

They read texts with their own tokenizers, so that any model can be judged by any GPT; a low figure alone is no quality,
as loops have one, too. What one judge likes another may not: several show how far the figure depends on the judge.

B texts, N tokens of a text, k windows of it, W tokens of the judge's context, C channels.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.metrics.text_sets import mean_of_known
from datasets.tokenizers import CharTokenizer, Tokenizer, tokenizer_from_state
from experiments.evaluation.judges.windows import TOKENS, windowed_sums
from experiments.evaluation.models import read_model_checkpoint
from experiments.run.build import build
from experiments.run.registry import ALGORITHMS, look_up
from experiments.training.checkpoints import load_weights

KEY = "experiment.judge"
LOGITS = 2**26  # the most numbers that a judge gives out at once
HUGGING_FACE = "hf:"  # how the path of a judge from there begins


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


class GPTJudge(Judge):
    """A GPT of this project with its tokenizer."""

    def __init__(self, algorithm: BaseAlgorithm, tokenizer: Tokenizer) -> None:
        super().__init__(
            algorithm,
            context=algorithm.backbone.block_size,
            start_id=tokenizer.start_id,
            vocabulary_size=tokenizer.vocabulary_size,
        )
        self.algorithm = algorithm
        self.tokenizer = tokenizer

    def check_writer(self, tokenizer: Tokenizer) -> None:
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

    def encode(self, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(text).tolist()
        except ValueError as error:
            raise ValueError(f"{KEY} cannot read a text: {error}") from error

    def nll(self, ids: Tensor) -> Tensor:
        return self.algorithm.nll(ids, torch.Generator(ids.device))  # not drawn from by an exact likelihood

    def hidden(self, ids: Tensor) -> Tensor:
        return self.algorithm.model.hidden(ids)  # type: ignore[operator, union-attr]  # a GPT's


class JudgePanel:
    """One judge or several over the same texts."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self.judges = list(judges)
        self.fingerprint = "+".join(judge.fingerprint for judge in judges)

    def check_writer(self, tokenizer: Tokenizer) -> None:
        """Raise ValueError if a model with `tokenizer` can write characters that one of the judges does not know."""
        for judge in self.judges:
            judge.check_writer(tokenizer)

    def to(self, device: torch.device) -> None:
        for judge in self.judges:
            judge.network.to(device)

    def score(self, texts: Sequence[str], prompts: Sequence[str]) -> dict[str, float | None]:
        """Of texts given their prompts, in nats per character: `judge_nll`, the mean over judges of all nats over all
        characters; `judge_gap`, the largest of these less the smallest, None with one judge; `judge_text_sd`, the
        sample standard deviation over texts of each text's own figure, averaged over judges, None where fewer than two
        texts have characters. Raises ValueError naming characters that a judge does not know."""
        read = [(judge.nats(texts, prompts), texts) for judge in self.judges]
        characters = sum(map(len, texts))
        each = [math.fsum(nats) / characters for nats, _ in read] if characters else []
        own = [[one / len(text) for one, text in zip(nats, texts, strict=True) if text] for nats, _ in read]
        return {
            "judge_nll": mean_of_known(each),
            "judge_gap": max(each) - min(each) if len(each) > 1 else None,
            "judge_text_sd": mean_of_known(float(np.std(of, ddof=1)) if len(of) > 1 else None for of in own),
        }

    def features(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Mean hidden states (B, C) of the texts that have characters, those of several judges side by side, each of
        length 1 so that all weigh the same."""
        found = [judge.features(texts) for judge in self.judges]
        return np.concatenate([each / np.linalg.norm(each, axis=1, keepdims=True) for each in found], axis=1)


def load_judges(paths: Sequence[str]) -> JudgePanel:
    """The judges of run folders, checkpoints or hf:NAME. Raises as load_judge, and ValueError on the same one twice."""
    judges = [load_judge(path) for path in paths]
    for i, judge in enumerate(judges):
        for other in range(i):
            if judges[other].fingerprint == judge.fingerprint:
                raise ValueError(
                    f"{KEY} holds the same weights twice, as {paths[other]} and {paths[i]}: give another seed's"
                )
    return JudgePanel(judges)


def load_judge(path: str) -> Judge:
    """The judge of a run folder or checkpoint, or of Hugging Face as hf:NAME_OR_FOLDER.

    Raises ValueError or FileNotFoundError in one sentence.
    """
    if path.startswith(HUGGING_FACE):
        from experiments.evaluation.judges.hugging_face import load_hf_judge

        return load_hf_judge(path.removeprefix(HUGGING_FACE))
    file, checkpoint = read_model_checkpoint(path, KEY)
    name = checkpoint["algorithm"]
    if name != "gpt":
        raise ValueError(f"{KEY}={path} holds algorithm={name}: a judge is a GPT, whose likelihood is exact and cheap")
    cls = look_up(ALGORITHMS, name, f"{KEY}: algorithm.name")
    tokenizer = tokenizer_from_state(checkpoint["tokenizer"])
    backbone = {"backbone": checkpoint["config"]["algorithm"]["backbone"]}  # all that a judge needs of its settings
    algorithm = cls(build(cls.config_class, backbone, f"{KEY}: algorithm"), vocabulary_size=tokenizer.vocabulary_size)
    load_weights(algorithm, checkpoint, file, tokenizer=tokenizer)
    return GPTJudge(algorithm, tokenizer)


def fingerprint(module: nn.Module) -> str:
    """Twelve hexadecimal digits of the names and bits of all weights and buffers."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _named(characters: Sequence[str]) -> str:
    return ", ".join(map(repr, characters[:10])) + (", ..." if characters[10:] else "")
