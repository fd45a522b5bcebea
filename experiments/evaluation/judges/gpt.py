"""A GPT of this project as a judge: experiment.judge=RUN.

k windows of a text, W tokens of the judge's context, C channels.
"""

import torch
from torch import Tensor

from algorithms.common.base_algorithm import BaseAlgorithm
from datasets.tokenizers import CharTokenizer, Tokenizer, tokenizer_from_state
from experiments.evaluation.judges.base import KEY, Judge, named
from experiments.evaluation.models import read_model_checkpoint
from experiments.run.build import build
from experiments.run.registry import ALGORITHMS, look_up
from experiments.training.checkpoints import load_weights


class GPTJudge(Judge):
    """A GPT of this project with its tokenizer."""

    def __init__(self, algorithm: BaseAlgorithm, tokenizer: Tokenizer) -> None:
        context, size = algorithm.block_size, tokenizer.vocabulary_size
        super().__init__(algorithm, context=context, start_id=tokenizer.start_id, vocabulary_size=size)
        self.algorithm = algorithm
        self.tokenizer = tokenizer

    def check_writer(self, tokenizer: Tokenizer) -> None:
        if not isinstance(self.tokenizer, CharTokenizer):
            return
        remedy = "take a judge trained on the same characters, or with dataset.tokenizer=byte"
        if not isinstance(tokenizer, CharTokenizer):
            known = self.tokenizer.vocabulary_size
            raise ValueError(f"{KEY} knows {known} characters, the model may write any: {remedy}")
        unknown = sorted(set(tokenizer.characters) - set(self.tokenizer.characters))
        if unknown:
            raise ValueError(f"{KEY} has never seen {named(unknown)}, which the model can write: {remedy}")

    def encode(self, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(text).tolist()
        except ValueError as error:
            raise ValueError(f"{KEY} cannot read a text: {error}") from error

    def nll(self, ids: Tensor) -> Tensor:
        return self.algorithm.nll(ids, torch.Generator(ids.device))  # not drawn from by an exact likelihood

    def hidden(self, ids: Tensor) -> Tensor:
        return self.algorithm.model.hidden(ids)  # type: ignore[operator, union-attr]  # a GPT's


def load_gpt_judge(path: str) -> GPTJudge:
    """The judge of a run folder or checkpoint. Raises ValueError or FileNotFoundError in one sentence."""
    file, checkpoint = read_model_checkpoint(path, KEY)
    name = checkpoint["algorithm"]
    cls = look_up(ALGORITHMS, name, f"{KEY}: algorithm.name")
    if not cls.is_autoregressive:
        name = checkpoint.get("choices", {}).get("algorithm", name)
        raise ValueError(f"{KEY}={path} holds algorithm={name}: a judge is a GPT, whose likelihood is exact and cheap")
    tokenizer = tokenizer_from_state(checkpoint["tokenizer"])
    backbone = {"backbone": checkpoint["config"]["algorithm"]["backbone"]}  # all that a judge needs of its settings
    algorithm = cls(build(cls.config_class, backbone, f"{KEY}: algorithm"), vocabulary_size=tokenizer.vocabulary_size)
    load_weights(algorithm, checkpoint, file, tokenizer=tokenizer)
    return GPTJudge(algorithm, tokenizer)
