"""A GPT that goes out as nanoGPT's ckpt.pt: the same bits back, nanoGPT's own figures, and what cannot go out."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from algorithms.common.backbone import BackboneConfig
from algorithms.common.backbone.weights import from_nanogpt, to_nanogpt
from algorithms.common.decoder import Request
from algorithms.common.sampling import context_start
from algorithms.teacher_forcing.decoding import Autoregressive
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from datasets.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from experiments.training import export
from experiments.training.checkpoints import load_weights, read_checkpoint
from tests.conftest import Main
from tests.golden.values import assert_golden, golden

ABC = CharTokenizer("cab")
CASES = [False, True]  # with biases


def gpt(*, bias: bool = False, seed: int = 0) -> GPT:
    """A small model with weights that no other one has."""
    torch.manual_seed(seed)
    config = BackboneConfig(n_layer=2, n_head=2, n_embd=8, block_size=4, style="nanogpt", bias=bias, dropout=0.1)
    model = GPT(GPTConfig(config), vocabulary_size=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def stored(model: GPT, tokenizer: Tokenizer = ABC) -> dict[str, Any]:
    """What a run of `model` leaves behind, as far as an export reads it."""
    keys = ("n_layer", "n_head", "n_embd", "block_size", "style", "bias", "dropout")
    backbone = {key: getattr(model.config.backbone, key) for key in keys}
    optimizer = {"lr": 1e-3, "weight_decay": 0.2, "beta1": 0.8, "beta2": 0.9}
    config = {"algorithm": {"backbone": backbone, "optimizer": optimizer}, "dataset": {"name": "tiny_shakespeare"}}
    own = {"algorithm": "gpt", "config": config, "tokenizer": tokenizer.state(), "state_dict": model.state_dict()}
    return own | {"global_step": 7}


def golden_gpt(bias: bool) -> tuple[GPT, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Our model with the weights of a golden case, these weights as nanoGPT has them, and the case's values."""
    values = golden("nanogpt.npz", f"nanogpt_bias_{bias}") | golden("nanogpt_export.npz", f"nanogpt_bias_{bias}")
    state = {k.removeprefix("state_dict/"): v for k, v in values.items() if k.startswith("state_dict/")}
    config = BackboneConfig(n_layer=2, n_head=2, n_embd=32, block_size=24, style="nanogpt", bias=bias)
    model = GPT(GPTConfig(config), vocabulary_size=37)
    model.model.load_state_dict(from_nanogpt(state))
    return model.eval(), state, values


@pytest.mark.parametrize("bias", CASES)
def test_what_goes_out_comes_back(tmp_path: Path, bias: bool) -> None:
    """Catches a weight lost, renamed or rounded on the way out, sizes that do not describe it, and code in the file."""
    source, target = gpt(bias=bias), gpt(bias=bias, seed=1)
    torch.save(stored(source), tmp_path / "run.ckpt")
    export.export(tmp_path / "run.ckpt", tmp_path / "out" / "ckpt.pt")
    content = read_checkpoint(tmp_path / "out" / "ckpt.pt")  # refuses all but tensors and plain containers
    load_weights(target, content, tmp_path, tokenizer=ABC)
    own = target.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in source.state_dict().items())
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 4, "bias": bias, "dropout": 0.1, "vocab_size": 3}
    assert content["model_args"] == sizes and content["config"] == {"dataset": "shakespeare_char"}
    with (tmp_path / "out" / "meta.pkl").open("rb") as file:
        meta = pickle.load(file)
    assert "".join(meta["itos"][meta["stoi"][c]] for c in "abc") == "abc"
    assert ABC.decode([meta["stoi"][c] for c in "bca"]) == "bca" and meta["vocab_size"] == 3


@pytest.mark.parametrize("bias", CASES)
def test_the_optimizer_is_one_of_nanogpt(tmp_path: Path, bias: bool) -> None:
    """Catches groups that train.py's AdamW refuses, or that decay gains and biases; a tied weight counted twice."""
    model = gpt(bias=bias)
    own = list(model.parameters())
    matrices = [p for p in own if p.dim() >= 2]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": [p for p in own if p.dim() < 2]}])
    content = export.nanogpt_checkpoint(stored(model), tmp_path)
    optimizer.load_state_dict(content["optimizer"])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9) and not optimizer.state


@pytest.mark.parametrize("bias", CASES)
def test_exported_weights_are_those_of_nanogpt(bias: bool) -> None:
    """Catches any name or value that is not nanoGPT's: of these very weights its logits and loss are known."""
    model, state, values = golden_gpt(bias)
    exported = to_nanogpt(model.model.state_dict())
    assert exported.keys() == state.keys() and all(torch.equal(exported[key], state[key]) for key in state)
    logits = model.model(values["idx"])
    assert_golden(logits, values["logits"])
    assert_golden(cross_entropy(logits.flatten(0, 1), values["targets"].flatten()), values["loss"])


@pytest.mark.parametrize("bias", CASES)
def test_greedy_texts_equal_nanogpt(bias: bool) -> None:
    """Catches a decoder that reads another context than nanoGPT's generate does, one token too few or too many, where
    both read all of it; and beyond the window a model that is not nanoGPT's on the last block_size tokens."""
    model, _, values = golden_gpt(bias)
    prompt, greedy, window = values["prompt"], values["greedy"], 24
    (B, P), L = prompt.shape, greedy.size(1)
    request = Request.continuing(prompt.tolist(), length=L - P, seeds=[0] * B)
    ours = torch.tensor(model.generate(request, Autoregressive(temperature=0.0)).texts)
    assert torch.equal(ours[:, : window + 1], greedy[:, : window + 1])
    for position in range(P, L):
        cropped = model.model(greedy[:, max(0, position - window) : position])[:, -1]
        assert torch.equal(cropped.argmax(-1), greedy[:, position])


def test_beyond_the_window_every_half_window_has_the_context_of_nanogpt() -> None:
    """Catches another rule of the context than the one that is documented: it jumps, nanoGPT's moves token by token."""
    starts = [context_start(position, 24) for position in range(1, 97)]
    equal = [position for position, start in enumerate(starts, 1) if start == max(0, position - 24)]
    assert equal == [*range(1, 25), 36, 48, 60, 72, 84, 96]
    assert all(position - start > 11 for position, start in enumerate(starts, 1) if position > 24)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"algorithm": "df_lm"}, "holds algorithm=df_lm, nanoGPT a GPT: export a run of algorithm=gpt"),
        ({"model": {}, "model_args": {}}, "is a file of NanoGPT: export a run or checkpoint of this project"),
    ],
)
def test_what_is_no_gpt_of_ours_is_refused(tmp_path: Path, changes: dict, sentence: str) -> None:
    """Catches a file that nanoGPT cannot read, or reads as another model."""
    with pytest.raises(ValueError, match=sentence):
        export.nanogpt_checkpoint(stored(gpt()) | changes, tmp_path)


def test_a_rope_model_is_refused(tmp_path: Path) -> None:
    """Catches weights without learned positions that go out as if nanoGPT had rotary ones."""
    checkpoint = stored(gpt())
    checkpoint["config"]["algorithm"]["backbone"]["style"] = "rope"
    with pytest.raises(ValueError, match=r"style=rope, which nanoGPT lacks: train with .*style=nanogpt"):
        export.nanogpt_checkpoint(checkpoint, tmp_path)


def test_ids_that_are_no_characters_have_no_meta(tmp_path: Path) -> None:
    """Catches a meta.pkl by which sample.py would print other text than the ids stand for."""
    torch.save(stored(gpt(), ByteTokenizer()), tmp_path / "run.ckpt")
    lines = export.export(tmp_path / "run.ckpt", tmp_path / "ckpt.pt")
    assert not (tmp_path / "meta.pkl").exists() and "reads ids of dataset.tokenizer=byte as those of GPT-2" in lines[-1]


def test_folders_of_nanogpt_are_named_only_for_their_own_ids(tmp_path: Path) -> None:
    """Catches bytes that are trained on as characters, and a corpus here that is taken for another one there."""
    names = []
    for corpus, tokenizer in (("tiny_shakespeare", ABC), ("tiny_shakespeare", ByteTokenizer()), ("shakespeare", ABC)):
        checkpoint = stored(gpt(), tokenizer)
        checkpoint["config"]["dataset"]["name"] = corpus
        names.append(export.nanogpt_checkpoint(checkpoint, tmp_path)["config"]["dataset"])
    assert names == ["shakespeare_char", "byte_tiny_shakespeare", "char_shakespeare"]


def test_the_checkpoint_is_not_called_as_its_characters(tmp_path: Path) -> None:
    """Catches weights that the characters overwrite."""
    torch.save(stored(gpt()), tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match="has the name of the file of characters: name the checkpoint otherwise"):
        export.export(tmp_path / "run.ckpt", tmp_path / "meta.pkl")


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a checkpoint of nanoGPT's own training that an export destroys, and a mistake that is a traceback."""
    torch.save(stored(gpt()), tmp_path / "run.ckpt")
    (tmp_path / "meta.pkl").write_bytes(b"theirs")
    assert export.main([str(tmp_path / "run.ckpt"), str(tmp_path / "ckpt.pt")]) == 1
    assert capsys.readouterr().err.startswith(f"error: there is {tmp_path / 'meta.pkl'} already: name another file")
    assert (tmp_path / "meta.pkl").read_bytes() == b"theirs" and not (tmp_path / "ckpt.pt").exists()


def test_a_run_goes_out_and_comes_back(main: Main, corpus: Path) -> None:
    """Catches an export of a real run folder that `load=` does not take, or that has another likelihood."""
    data = ["dataset=text_file", f"dataset.path={corpus}", "trainer=cpu", "debug=smoke"]
    command = ["algorithm=gpt", "algorithm/backbone=tiny_nanogpt", "algorithm.backbone.block_size=24", *data]
    assert main(*command, "experiment.tasks=[training,test]", "hydra.run.dir=a").status == 0
    assert export.main(["a", "out/ckpt.pt"]) == 0
    outcome = main("load=out/ckpt.pt", *data, "experiment.tasks=[test]", "hydra.run.dir=b")
    assert (outcome.status, outcome.err) == (0, "")
    a, b = (json.loads(Path(run, "summary.json").read_text(encoding="utf-8"))["figures"]["test/nll"] for run in "ab")
    assert a == b
