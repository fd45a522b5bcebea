"""The weights of a GPT as the ckpt.pt that karpathy/nanoGPT reads (model.py, train.py and sample.py at 3adf61e).

    python -m experiments.training.export RUN OUT_DIR/ckpt.pt

Beside it goes meta.pkl, the characters of the ids, where the tokenizer is one of characters. `load=` reads it back.
"""

import argparse
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from algorithms.common.backbone.weights import to_nanogpt
from experiments.analysis.command_line import in_one_sentence
from experiments.analysis.files import write, write_atomically
from experiments.run.folder import checkpoint_of, pointed
from experiments.training.checkpoints import Checkpoint, read_checkpoint
from experiments.training.foreign_weights import recognise

SIZES = ("n_layer", "n_head", "n_embd", "block_size", "bias")
META = "meta.pkl"
NO_LOSS_YET = 1e9  # train.py's best_val_loss of a new model: its val split is not the one that this model was chosen on
DATASETS = {
    ("tiny_shakespeare", "char"): "shakespeare_char"
}  # folders of data/ there that hold the same ids; others go by names that are none there


def nanogpt_checkpoint(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """What train.py saves, from a checkpoint of ours: tensors and plain containers. The optimizer has no moments yet.

    Raises ValueError, naming `path`, where the model is none that nanoGPT has.
    """
    foreign = recognise(checkpoint)
    if foreign is not None:
        raise ValueError(f"{path} is a file of {type(foreign).__name__}: export a run or checkpoint of this project")
    method, config = checkpoint["algorithm"], checkpoint["config"]
    if method != "gpt":
        raise ValueError(f"{path} holds algorithm={method}, nanoGPT a GPT: export a run of algorithm=gpt")
    backbone, optimizer = config["algorithm"]["backbone"], config["algorithm"]["optimizer"]
    if backbone["style"] != "nanogpt":
        raise ValueError(
            f"{path} has algorithm.backbone.style={backbone['style']}, which nanoGPT lacks: train with "
            "algorithm.backbone.style=nanogpt, as algorithm/backbone=tiny_nanogpt does"
        )
    weights = {key.removeprefix("model."): value for key, value in checkpoint["state_dict"].items()}
    data = config["dataset"]["name"], checkpoint["tokenizer"]["kind"]
    vocabulary_size = len(weights["wte.weight"])
    return {
        "model": to_nanogpt(weights),
        "model_args": {key: backbone[key] for key in (*SIZES, "dropout")} | {"vocab_size": vocabulary_size},
        "optimizer": unused_adamw(weights, optimizer),
        "iter_num": 0,  # a training that begins: it warms up beside the new optimizer, and heeds eval_only
        "best_val_loss": NO_LOSS_YET,
        "config": {"dataset": DATASETS.get(data, "_".join(reversed(data)))},
    }


def unused_adamw(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    """The state dict of an AdamW before its first step, in nanoGPT's groups: matrices decay, vectors do not."""
    tensors = [torch.empty(value.shape, device="meta") for key, value in weights.items() if key != "lm_head.weight"]
    groups = [
        {"params": [tensor for tensor in tensors if tensor.dim() >= 2], "weight_decay": config["weight_decay"]},
        {"params": [tensor for tensor in tensors if tensor.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config["lr"], betas=(config["beta1"], config["beta2"])).state_dict()


def meta(tokenizer: dict[str, Any]) -> dict[str, Any] | None:
    """nanoGPT's meta.pkl of a tokenizer's state; None unless its tokens are characters."""
    if tokenizer["kind"] != "char":
        return None
    characters = tokenizer["characters"]
    return {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {character: number for number, character in enumerate(characters)},
    }


def export(run: Path, out: Path) -> list[str]:
    """Write the best weights of a run folder, or those of a checkpoint, to `out`. Returns what to know of the files.

    Raises FileNotFoundError, FileExistsError or ValueError in one sentence.
    """
    if out.name == META:
        raise ValueError(f"{out} has the name of the file of characters: name the checkpoint otherwise, as ckpt.pt")
    source, characters_file = checkpoint_of(pointed(run), ["best.ckpt", "last.ckpt"]), out.with_name(META)
    checkpoint = read_checkpoint(source)
    content = nanogpt_checkpoint(checkpoint, source)
    characters = meta(checkpoint["tokenizer"])
    for path in (out, characters_file) if characters else (out,):
        if path.exists():
            raise FileExistsError(f"there is {path} already: name another file, in a folder of its own")
    write_atomically(out, lambda file: torch.save(content, file))
    lines = [f"{out}: {source} at step {checkpoint['global_step']}, for --out_dir={out.parent} of nanoGPT"]
    if characters:
        write(characters_file, pickle.dumps(characters))
        folder = f"data/{content['config']['dataset']}"
        lines.append(f"{characters_file}: its characters, which sample.py looks for in {folder} of nanoGPT")
    else:
        kind = checkpoint["tokenizer"]["kind"]
        lines.append(
            f"no {META}: sample.py reads ids of dataset.tokenizer={kind} as those of GPT-2's tokenizer, so that its "
            "text is wrong"
        )
    return lines


@in_one_sentence
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.training.export", description="Write a GPT as a checkpoint of nanoGPT."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or checkpoint of algorithm=gpt")
    parser.add_argument("out", type=Path, metavar="OUT_DIR/ckpt.pt", help="the file to write; meta.pkl goes beside it")
    given = parser.parse_args(arguments)
    print(*export(given.run, given.out), sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
