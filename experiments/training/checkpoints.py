"""Checkpoints: written atomically, read without running any code in them, and matched against the model at hand.

A checkpoint of ours is Lightning's dictionary of tensors and plain containers, plus what is needed to rebuild the run:
`algorithm` (name), `config`, `choices`, `overrides`, `tokenizer` (state) and `dataset` (fingerprint).
"""

import pickle
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from experiments.analysis.files import write_atomically
from experiments.training.foreign_weights import Algorithm, Description, recognise

Checkpoint = dict[str, Any]
STATE_DICTS = ("state_dict", "current_model_state")  # the latter beside averaged weights
FORMER_NAMES = {  # of weights, as patterns -> what they are called now, None: nothing; one after the other
    r"(?<![a-z_])trunk\.": "backbone.",
    r"^process\.denoiser\.(levels\..*|alphas_cumprod)$": None,  # copies
    r"^process\.denoiser\.": "denoiser.",
    r"^levels\.": "process.levels.",
    r"^denoiser\.forward_trunk\.": "denoiser.noisy_layers.",
    r"^denoiser\.backward_trunk\.": "denoiser.right_layers.",
}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and moves into place, so that a crash in mid-write leaves the previous file whole."""

    def save_checkpoint(self, checkpoint: Checkpoint, path: Any, storage_options: Any = None) -> None:
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Checkpoint:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> Checkpoint:
    """The contents of a checkpoint file: tensors and plain containers, on the CPU, weights under the names of today.

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
    if recognise(checkpoint) is None and not {"state_dict", "algorithm", "config"} <= set(checkpoint):
        raise ValueError(
            f"{path} is not a checkpoint of this project or of nanoGPT, nor a state dict of tiny-diffusion: "
            "it lacks what they carry"
        )
    renamed = {key: _renamed(checkpoint[key]) for key in STATE_DICTS if key in checkpoint}
    return checkpoint | renamed


def describe(path: Path, *, given: Collection[str] = (), algorithm: Algorithm | None = None) -> Description:
    """Config and group choices that rebuild the model of a checkpoint file.

    `given` are the keys and groups that the user settles: a group among them replaces what our own checkpoints say of
    it, while the sizes of another program's weights hold for any `algorithm` of the user's that can take these weights.
    """
    checkpoint = read_checkpoint(path)
    foreign = recognise(checkpoint)
    if foreign is not None:
        return foreign.describe(path, algorithm=algorithm, given=given)
    config = {root: value for root, value in checkpoint["config"].items() if root not in given}
    return config, checkpoint.get("choices", {})


def trained_on_other_data(
    checkpoint: Checkpoint, path: Path, *, dataset: dict[str, Any], fingerprint: str
) -> str | None:
    """What the model of a checkpoint was trained on, where that is not the data of `fingerprint`, which the
    configuration `dataset` leads to; None where it is, or where the checkpoint does not say."""
    if checkpoint.get("dataset") in (None, fingerprint):
        return None
    there, here = place_of(checkpoint["config"].get("dataset", {})), place_of(dataset)
    if there == here:
        return f"{path} was trained on {there} as it was before its text, split or tokenizer changed"
    return f"{path} was trained on {there}, not on {here}"


def place_of(dataset: dict[str, Any]) -> str:
    """Where the data of a configuration are: the path of the user's own, else the corpus."""
    return dataset.get("path") or f"dataset={dataset.get('name')}"


def load_weights(algorithm: Any, checkpoint: Checkpoint, path: Path, *, tokenizer: Any) -> None:
    """Load the weights of `checkpoint` into `algorithm`, in place.

    Raises ValueError naming both sides when the checkpoint is of another method, vocabulary or shape.
    """
    name, foreign = algorithm.name, recognise(checkpoint)
    chosen = checkpoint.get("choices", {}).get("algorithm", checkpoint.get("algorithm"))
    if name not in (foreign.methods if foreign else (checkpoint["algorithm"],)):
        remedy = " or ".join(f"algorithm={method}" for method in (foreign.methods if foreign else (chosen,)))
        raise ValueError(f"{path} holds {remedy}, not {name}: say {remedy}")
    if foreign:
        foreign.check_vocabulary(path, method=name, tokens=tokenizer.vocabulary_size)
        weights, stored = foreign.weights(name), foreign.shape(path)
    else:
        _check_vocabulary(checkpoint, path, tokenizer)
        weights, stored = checkpoint["state_dict"], checkpoint["config"].get("algorithm", {})
    _check_sizes(algorithm, stored, path)
    own = algorithm.state_dict()
    for key, value in weights.items():
        if key in own and own[key].shape != value.shape:
            shapes = f"{tuple(value.shape)} in {path}, {tuple(own[key].shape)} in the model"
            raise ValueError(f"'{key}' has the shape {shapes}: their configs differ, see load=RUN_FOLDER")
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        which = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the model lacks"
        raise ValueError(
            f"{path} {which}: it was written with other options of algorithm={name if foreign else chosen}"
        )
    algorithm.load_state_dict(weights)


def _renamed(weights: dict[str, Any]) -> dict[str, Any]:
    """A state dict of ours under the names of today."""
    renamed = {}
    for key, value in weights.items():
        name: str | None = key
        for pattern, now in FORMER_NAMES.items():
            if name is not None and re.search(pattern, name):
                name = None if now is None else re.sub(pattern, now, name)
        if name is not None:
            renamed[name] = value
    return renamed


def _check_sizes(algorithm: Any, stored: dict[str, Any], path: Path) -> None:
    """ValueError naming the first size in which the model's config is not the stored one."""
    for key in algorithm.shape_keys:
        group, _, name = key.partition(".")
        node = stored.get(group) or {}
        own = getattr(getattr(algorithm.config, group, None), name, None)
        if name in node and node[name] != own:
            stored_size = f"algorithm.{key}={node[name]}"
            raise ValueError(f"{path} has {stored_size}, the model {own}: say {stored_size}")


def _check_vocabulary(checkpoint: Checkpoint, path: Path, tokenizer: Any) -> None:
    """ValueError where ids mean other tokens to the model than to the data."""
    from datasets.tokenizers import tokenizer_from_state

    own = tokenizer.state()
    if checkpoint["tokenizer"] == own:
        return
    stored = tokenizer_from_state(checkpoint["tokenizer"])  # of an older run, whose state may be written otherwise
    if stored.state() != own:
        raise ValueError(
            f"{path} has another vocabulary ({stored.kind}, {stored.vocabulary_size} tokens) than the dataset "
            f"({own['kind']}, {tokenizer.vocabulary_size} tokens): say dataset.tokenizer=loaded to keep that of the "
            f"checkpoint, or take the data that it was trained on, {place_of(checkpoint['config'].get('dataset', {}))}"
        )
