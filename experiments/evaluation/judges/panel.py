"""One judge or several over the same texts: what one likes another may not, and how far a value depends on the judge.

B texts, C channels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from algorithms.common.metrics.judged import Judged
from datasets.tokenizers import Tokenizer
from experiments.evaluation.judges.base import KEY, Judge
from experiments.evaluation.judges.gpt import load_gpt_judge
from experiments.evaluation.judges.hugging_face import load_hf_judge

HUGGING_FACE = "hf:"  # how the path of a judge from there begins


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

    def read(self, texts: Sequence[str], prompts: Sequence[str]) -> Judged:
        """What every judge thinks of texts given their prompts. Raises ValueError naming characters that a judge does
        not know."""
        return Judged([judge.nats(texts, prompts) for judge in self.judges], [len(text) for text in texts])

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
                both = f"{paths[other]} and {paths[i]}"
                raise ValueError(f"{KEY} holds the same weights twice, as {both}: give another seed's")
    return JudgePanel(judges)


def load_judge(path: str) -> Judge:
    """The judge of a run folder or checkpoint, or of Hugging Face as hf:NAME_OR_FOLDER.

    Raises ValueError or FileNotFoundError in one sentence.
    """
    if path.startswith(HUGGING_FACE):
        return load_hf_judge(path.removeprefix(HUGGING_FACE))
    return load_gpt_judge(path)
