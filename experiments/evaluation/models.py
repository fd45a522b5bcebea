"""A trained model rebuilt from its checkpoint alone, with the tokenizer and the settings that it carries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algorithms.common.base_algorithm import BaseAlgorithm
from datasets.tokenizers import Tokenizer, tokenizer_from_state
from experiments.run.build import build
from experiments.run.folder import checkpoint_of
from experiments.run.registry import ALGORITHMS, look_up
from experiments.training.checkpoints import Checkpoint, load_weights, read_checkpoint


@dataclass(frozen=True)
class Model:
    """Weights in evaluation mode, from `file`; `plain` is their configuration as plain containers, `choices` the groups
    it was composed of."""

    algorithm: BaseAlgorithm
    tokenizer: Tokenizer
    file: Path
    plain: dict[str, Any]
    choices: dict[str, str]
    dataset: str | None  # fingerprint of the corpus it was trained on

    @property
    def chosen(self) -> str:
        """The file of configs/algorithm that it was trained with; its method's name where an older checkpoint does not
        tell."""
        return self.choices.get("algorithm", self.algorithm.name)


def read_model_checkpoint(path: str, key: str) -> tuple[Path, Checkpoint]:
    """The checkpoint of a run folder or file of this project, asked for by the configuration's `key`.

    Raises ValueError or FileNotFoundError in one sentence.
    """
    try:
        file = checkpoint_of(Path(path), ["best.ckpt", "last.ckpt"])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{key}: {error}") from error
    checkpoint = read_checkpoint(file)
    if not {"algorithm", "config", "tokenizer"} <= checkpoint.keys():
        raise ValueError(f"{key}={path} carries no tokenizer: give a run or checkpoint of this project")
    return file, checkpoint


def load_model(path: str, key: str) -> Model:
    """The model of a run folder or checkpoint. Raises as read_model_checkpoint, and ValueError on what cannot be
    rebuilt."""
    file, checkpoint = read_model_checkpoint(path, key)
    cls = look_up(ALGORITHMS, checkpoint["algorithm"], f"{key}: algorithm.name")
    tokenizer = tokenizer_from_state(checkpoint["tokenizer"])
    config = build(cls.config_class, checkpoint["config"]["algorithm"], f"{key}: algorithm")
    algorithm = cls(config, vocabulary_size=tokenizer.vocabulary_size)
    load_weights(algorithm, checkpoint, file, tokenizer=tokenizer)
    return Model(
        algorithm.eval(),
        tokenizer,
        file,
        checkpoint["config"]["algorithm"],
        checkpoint.get("choices", {}),
        checkpoint.get("dataset"),
    )
