"""Checkpoint files: atomic, harmless, and refused in one sentence where they do not fit."""

import errno
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.common.backbone import BackboneConfig
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from datasets.tokenizers import CharTokenizer
from experiments.training import checkpoints as checkpoint
from experiments.training.checkpoints import AtomicCheckpointIO, load_weights, read_checkpoint

OURS = {"algorithm": "gpt", "config": {}, "state_dict": {"w": torch.ones(2)}}


def gpt(*, vocabulary_size: int = 3, **sizes: Any) -> GPT:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 4, "style": "nanogpt"} | sizes
    return GPT(GPTConfig(BackboneConfig(**shape)), vocabulary_size=vocabulary_size)


def stored(model: GPT, characters: CharTokenizer, **changes: Any) -> dict[str, Any]:
    shape = {k: getattr(model.config.backbone, k) for k in ("n_layer", "n_head", "n_embd", "block_size", "style")}
    config = {"algorithm": {"backbone": shape}, "dataset": {"name": "text8", "tokenizer": "char"}}
    own = {"algorithm": "gpt", "config": config, "tokenizer": characters.state(), "state_dict": model.state_dict()}
    return own | changes


def test_saved_and_read_again(tmp_path: Path) -> None:
    """Catches a write that is not moved into place, or leaves its temporary file."""
    AtomicCheckpointIO().save_checkpoint(OURS, tmp_path / "sub" / "a.ckpt")
    assert torch.equal(read_checkpoint(tmp_path / "sub" / "a.ckpt")["state_dict"]["w"], torch.ones(2))
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("writer failed")])
def test_a_failed_write_leaves_the_previous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Catches a full disk that destroys the last good checkpoint, or ends in a traceback."""
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(OURS, path)
    before = path.read_bytes()

    def fail(contents: Any, file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    with pytest.raises(OSError, match=r"cannot write .*a.ckpt .*the previous one is untouched"):
        AtomicCheckpointIO().save_checkpoint(OURS, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


class Hostile:
    """Runs a command when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    """Catches a load without weights_only, which would run what a stranger's file says."""
    mark = tmp_path / "mark"
    for name, save in (("zip", torch.save), ("pickle", lambda x, p: p.write_bytes(pickle.dumps(x, protocol=2)))):
        save(OURS | {"extra": Hostile(mark)}, tmp_path / name)
        with pytest.raises(ValueError, match=r"refused|is not a checkpoint"):
            read_checkpoint(tmp_path / name)
    assert not mark.exists()


def test_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    """Catches an obscure error of the unpickler for a wrong, empty or cut file."""
    whole = tmp_path / "whole.ckpt"
    torch.save(OURS | {"big": torch.zeros(1000)}, whole)
    content = whole.read_bytes()
    files = {
        "cut": (content[: len(content) // 2], "is truncated"),
        "damaged": (content[:60] + b"\0" * 40 + content[100:], "is damaged|is not a checkpoint"),
        "text": (b"hello, this is text", "is not a checkpoint"),
        "empty": (b"", "is not a checkpoint"),
        "list": (_saved([1, 2]), "is not a checkpoint: it holds a list"),
        "other": (_saved({"state_dict": {}, "epoch": 3}), "is not a checkpoint of this project or of nanoGPT, nor a"),
    }
    for name, (data, sentence) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=sentence) as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at"):
        read_checkpoint(tmp_path / "nowhere")


def _saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_weights_arrive(tmp_path: Path) -> None:
    """Catches weights that are read and not used."""
    tokenizer = CharTokenizer("abc")
    source, target = gpt(), gpt()
    torch.nn.init.normal_(source.model.wte.weight)
    load_weights(target, stored(source, tokenizer), tmp_path, tokenizer=tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"algorithm": "df_lm"}, "holds algorithm=df_lm, not gpt: say algorithm=df_lm"),
        (
            {"tokenizer": CharTokenizer("abcde").state()},
            r"char, 5 tokens.*char, 3 tokens.*say dataset.tokenizer=loaded .*, dataset=text8$",
        ),
        ({"state_dict": {}}, "lacks 'model"),
        ({"state_dict": gpt().state_dict() | {"more": torch.ones(1)}}, "has 'more', which the model lacks"),
    ],
)
def test_a_checkpoint_of_something_else(tmp_path: Path, changes: dict, sentence: str) -> None:
    """Catches a checkpoint of another method, vocabulary or option that is half loaded."""
    tokenizer = CharTokenizer("abc")
    with pytest.raises(ValueError, match=sentence):
        load_weights(gpt(), stored(gpt(), tokenizer, **changes), tmp_path, tokenizer=tokenizer)


def test_another_shape_names_the_override(tmp_path: Path) -> None:
    """Catches torch's list of size mismatches where one key says it all."""
    tokenizer = CharTokenizer("abc")
    with pytest.raises(
        ValueError, match=r"has algorithm.backbone.n_embd=16, the model 8: say algorithm.backbone.n_embd=16"
    ):
        load_weights(gpt(), stored(gpt(n_embd=16), tokenizer), tmp_path, tokenizer=tokenizer)
