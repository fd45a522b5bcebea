"""Checkpoints: written atomically, read without running any code in them, and matched against the model at hand.

A checkpoint of ours is Lightning's dictionary of tensors and plain containers, plus what is needed to rebuild the run:
`algorithm` (name), `config`, `choices`, `overrides`, `tokenizer` (state) and `dataset` (fingerprint).
"""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from algorithms.teacher_forcing.weights import from_nanogpt

Checkpoint = dict[str, Any]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and moves into place, so that a crash in mid-write leaves the previous file whole."""

    def save_checkpoint(self, checkpoint: Checkpoint, path: Any, storage_options: Any = None) -> None:
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Checkpoint:
        return read_checkpoint(Path(path))


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(binary file)` on a temporary file, flush it to the disk, and move it to `path`.

    Raises OSError, in one sentence, when that fails; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk into a RuntimeError
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        kept = "the previous one is untouched" if path.exists() else "nothing was written"
        raise OSError(f"cannot write {path} ({reason}): free some space or choose another folder; {kept}") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """The contents of a checkpoint file: tensors and plain containers, on the CPU.

    Raises FileNotFoundError or ValueError in one sentence; code in the file is never run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}: check the path")
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is truncated: its copying or writing was cut short; use another checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise ValueError(
                f"{path} asks for {named[1]}, which is not a tensor or a plain container: refused, as loading it "
                "could run code"
            ) from error
        raise ValueError(f"{path} is not a checkpoint: torch cannot read it") from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        what = "damaged" if start[:2] == b"PK" else "not a checkpoint"
        raise ValueError(f"{path} is {what}: torch cannot read it") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__}")
    if not is_nanogpt(checkpoint) and not {"state_dict", "algorithm", "config"} <= set(checkpoint):
        raise ValueError(f"{path} is not a checkpoint of this project or of nanoGPT: it lacks what they carry")
    return checkpoint


def is_nanogpt(checkpoint: Mapping[str, Any]) -> bool:
    return {"model", "model_args"} <= set(checkpoint)


def describe(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Config and group choices that rebuild the model of a checkpoint file."""
    checkpoint = read_checkpoint(path)
    if not is_nanogpt(checkpoint):
        return checkpoint["config"], checkpoint.get("choices", {})
    sizes = _nanogpt_sizes(checkpoint, path)
    choices = {"algorithm": "gpt", "algorithm/backbone": "nanogpt_cpu"}
    return {"algorithm": {"backbone": {"style": "nanogpt", **sizes}}}, choices


def load_weights(algorithm: Any, checkpoint: Checkpoint, path: Path, *, tokenizer: Any) -> None:
    """Load the weights of `checkpoint` into `algorithm`, in place.

    Raises ValueError naming both sides when the checkpoint is of another method, vocabulary or shape.
    """
    name = "gpt" if is_nanogpt(checkpoint) else checkpoint["algorithm"]
    if name != algorithm.name:
        raise ValueError(f"{path} holds algorithm={name}, not {algorithm.name}: say algorithm={name}")
    _check_vocabulary(checkpoint, path, tokenizer)
    backbone = algorithm.config.backbone
    if is_nanogpt(checkpoint):
        weights = {f"model.{key}": value for key, value in from_nanogpt(checkpoint["model"]).items()}
        stored = {"style": "nanogpt", **_nanogpt_sizes(checkpoint, path)}
    else:
        weights = checkpoint["state_dict"]
        stored = checkpoint["config"].get("algorithm", {}).get("backbone", {})
    for key in ("style", "n_layer", "n_head", "n_embd", "block_size", "bias"):
        value = getattr(backbone, key)
        if key in stored and stored[key] != value:
            raise ValueError(
                f"{path} has algorithm.backbone.{key}={stored[key]}, the model {value}: "
                f"say algorithm.backbone.{key}={stored[key]}"
            )
    own = algorithm.state_dict()
    for key, value in weights.items():
        if key in own and own[key].shape != value.shape:
            shapes = f"{tuple(value.shape)} in {path}, {tuple(own[key].shape)} in the model"
            raise ValueError(f"'{key}' has the shape {shapes}: their configs differ, see load=RUN_FOLDER")
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        which = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the model lacks"
        raise ValueError(f"{path} {which}: it was written with other options of algorithm={name}")
    algorithm.load_state_dict(weights)


def _check_vocabulary(checkpoint: Checkpoint, path: Path, tokenizer: Any) -> None:
    if is_nanogpt(checkpoint):
        size = checkpoint["model_args"]["vocab_size"]
        if size != tokenizer.vocabulary_size:
            raise ValueError(
                f"{path} has a vocabulary of {size} tokens, the dataset {tokenizer.vocabulary_size}: "
                "say dataset= and dataset.tokenizer= as it was trained (tiny_shakespeare in characters has 65)"
            )
        return
    stored, own = checkpoint["tokenizer"], tokenizer.state()
    if stored != own:
        from datasets.tokenizers import tokenizer_from_state

        there = tokenizer_from_state(stored).vocabulary_size
        dataset = checkpoint["config"].get("dataset", {})
        raise ValueError(
            f"{path} has another vocabulary ({dataset.get('tokenizer')}, {there} tokens) than the dataset "
            f"({tokenizer.vocabulary_size} tokens): say dataset={dataset.get('name')} "
            f"dataset.tokenizer={dataset.get('tokenizer')}"
        )


def _nanogpt_sizes(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    arguments = checkpoint["model_args"]
    keys = ("n_layer", "n_head", "n_embd", "block_size", "bias")
    if not isinstance(arguments, dict) or not {*keys, "vocab_size"} <= set(arguments):
        raise ValueError(f"{path} looks like a nanoGPT checkpoint, but its model_args lack the sizes")
    return {key: arguments[key] for key in keys}
