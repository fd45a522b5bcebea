"""Checkpoints of nanoGPT and tiny-diffusion: what they are taken for, the config they ask for, weights that arrive."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from algorithms.common.backbone import BackboneConfig
from algorithms.masked_diffusion.masked_diffusion import MaskedDiffusion, MaskedDiffusionConfig
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from datasets.tokenizers import CharTokenizer
from experiments.run import command_line
from experiments.run.folder import CONFIGS
from experiments.training.checkpoints import describe, load_weights, read_checkpoint
from tests.conftest import Main

ABC = CharTokenizer("abc")


def gpt(*, vocabulary_size: int = 3, style: str = "nanogpt", **sizes: Any) -> GPT:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 4, "style": style} | sizes
    return scattered(GPT(GPTConfig(BackboneConfig(**shape)), vocabulary_size=vocabulary_size))


def masked(*, vocabulary_size: int = 3, **sizes: Any) -> MaskedDiffusion:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 4} | sizes
    return scattered(MaskedDiffusion(MaskedDiffusionConfig(BackboneConfig(**shape)), vocabulary_size=vocabulary_size))


def scattered(model: Any) -> Any:
    """`model` with weights that no other model has."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def nanogpt(model: GPT, prefix: str = "") -> dict[str, Any]:
    """A file of nanoGPT with the weights of `model`: its names, its size table, its mask buffers."""
    weights = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("model.").replace("backbone.blocks.", "h.").replace("backbone.", "")
        weights[prefix + ("" if name.startswith("lm_head") else "transformer.") + name] = value
    weights[f"{prefix}transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    b = model.config.backbone
    sizes = {k: getattr(b, k) for k in ("n_layer", "n_head", "n_embd", "block_size", "bias")}
    return {"model": weights, "model_args": sizes | {"vocab_size": model.vocabulary_size, "dropout": 0.0}}


def tiny_diffusion(rows: int, *, n_embd: int = 8, bottleneck: int | None = None, prefix: str = "") -> dict[str, Tensor]:
    """A state dict as tiny-diffusion writes it, of two blocks and random weights; with a flow head on demand."""
    C = n_embd
    shapes: dict[str, tuple[int, ...]] = {"token_emb.weight": (rows, C), "lm_head.weight": (rows, C)}
    for block in ("blocks.0", "blocks.1"):
        shapes |= {f"{block}.attn.c_{part}.weight": (C, C) for part in ("q", "k", "v", "proj")}
        shapes |= {f"{block}.mlp.c_fc.weight": (4 * C, C), f"{block}.mlp.c_proj.weight": (C, 4 * C)}
    if bottleneck is not None:
        shapes |= {"flow_head.0.weight": (bottleneck, C), "flow_head.2.weight": (C, bottleneck)}
        shapes |= {"t_mlp.0.weight": (C, 1), "t_mlp.0.bias": (C,), "t_mlp.2.weight": (C, C), "t_mlp.2.bias": (C,)}
    draws = torch.Generator().manual_seed(rows)
    return {f"{prefix}{name}": 0.3 * torch.randn(shape, generator=draws) for name, shape in shapes.items()}


def composed(argv: list[str]) -> Any:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=argv)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [False, True])
def test_nanogpt_weights_load(tmp_path: Path, prefix: str, bias: bool) -> None:
    """Catches a parameter that nanoGPT names otherwise, torch.compile's prefix, and stored causal masks."""
    source, target = gpt(bias=bias), gpt(bias=bias)
    load_weights(target, nanogpt(source, prefix), tmp_path, tokenizer=ABC)
    ids = torch.tensor([[0, 1, 2, 1]])
    assert torch.equal(source.model(ids), target.model(ids))


def test_nanogpt_file_describes_its_model(tmp_path: Path) -> None:
    """Catches `load=ckpt.pt` that needs its sizes typed again."""
    torch.save(nanogpt(gpt(n_embd=16)), tmp_path / "ckpt.pt")
    config, choices = describe(tmp_path / "ckpt.pt")
    assert choices["algorithm"] == "gpt"
    backbone = config["algorithm"]["backbone"]
    assert backbone == {"style": "nanogpt", "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 4, "bias": False}
    assert describe(tmp_path / "ckpt.pt", given={"algorithm"}, algorithm={"name": "gpt"}) == (config, choices)
    assert describe(tmp_path / "ckpt.pt", given={"algorithm"}, algorithm={"name": "df_lm"}) == ({}, {})


def test_nanogpt_of_another_vocabulary(tmp_path: Path) -> None:
    """Catches a nanoGPT model of other characters that is loaded and talks nonsense."""
    with pytest.raises(ValueError, match="vocabulary of 3 tokens, the dataset 4"):
        load_weights(gpt(), nanogpt(gpt()), tmp_path, tokenizer=CharTokenizer("abcd"))


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_tiny_diffusion_weights_load(tmp_path: Path, prefix: str) -> None:
    """Catches a parameter without its counterpart, torch.compile's prefix, and a mask token that stays in row 0."""
    state = tiny_diffusion(3, prefix=prefix)
    torch.save(state, tmp_path / "gpt.pt")
    target = gpt(style="rope")
    load_weights(target, read_checkpoint(tmp_path / "gpt.pt"), tmp_path / "gpt.pt", tokenizer=ABC)
    assert torch.equal(target.model.wte.weight, state[f"{prefix}token_emb.weight"])
    attention = [state[f"{prefix}blocks.1.attn.c_{part}.weight"] for part in "qkv"]
    assert torch.equal(target.model.backbone.blocks[1].attn.c_attn.weight, torch.cat(attention))
    state = tiny_diffusion(4, prefix=prefix)
    denoiser = masked()
    load_weights(denoiser, state, tmp_path / "diffusion.pt", tokenizer=ABC)
    for ours, theirs in (("wte", "token_emb"), ("lm_head", "lm_head")):
        rows = state[f"{prefix}{theirs}.weight"]
        weight = getattr(denoiser.model, ours).weight
        assert torch.equal(weight[denoiser.mask_id], rows[0]) and torch.equal(weight[:3], rows[1:])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            tiny_diffusion(3) | {"step": 7},
            "is not a checkpoint of this project or of nanoGPT, nor a state dict of tiny",
        ),
        ({"encoder.weight": torch.ones(2, 2)}, "nor a state dict of tiny-diffusion: it lacks what they carry"),
        ({}, "nor a state dict of tiny-diffusion"),
    ],
)
def test_state_dicts_of_anything_else_are_refused(tmp_path: Path, content: dict[str, Any], sentence: str) -> None:
    """Catches a file of tensors, or a larger dictionary, that is taken for tiny-diffusion's."""
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=sentence):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("model", "state", "sentence"),
    [
        (gpt(style="rope"), tiny_diffusion(4), "of 4 tokens, the dataset has 3: say algorithm=masked_diffusion"),
        (masked(), tiny_diffusion(3), "of 3 tokens, the dataset's 3 and a mask make 4: say algorithm=gpt"),
        (
            masked(),
            tiny_diffusion(9),
            "9 tokens, the dataset's 3 .* say dataset=tiny_shakespeare dataset.tokenizer=char",
        ),
        (gpt(style="rope"), tiny_diffusion(9), "9 tokens, the dataset has 3: say dataset=tiny_shakespeare"),
        (masked(), tiny_diffusion(4, bottleneck=5), "holds algorithm=diffusion_flow, not masked_diffusion"),
        (gpt(), tiny_diffusion(3), "has algorithm.backbone.style=rope, the model nanogpt: say"),
        (masked(n_embd=16), tiny_diffusion(4), "has algorithm.backbone.n_embd=8, the model 16: say"),
        (masked(n_layer=1), tiny_diffusion(4), "has algorithm.backbone.n_layer=2, the model 1: say"),
        (gpt(style="rope"), tiny_diffusion(3) | {"more": torch.ones(1)}, "has 'model.more', which the model lacks"),
        (
            gpt(style="rope"),
            {k: v for k, v in tiny_diffusion(3).items() if not k.endswith("1.attn.c_k.weight")},
            r"'model.backbone.blocks.1.attn.c_attn.weight' has the shape \(16, 8\)",
        ),
    ],
)
def test_tiny_diffusion_weights_that_do_not_fit(tmp_path: Path, model: Any, state: dict, sentence: str) -> None:
    """Catches weights of another vocabulary, method or size that load, or end in torch's list of mismatches."""
    with pytest.raises(ValueError, match=sentence) as caught:
        load_weights(model, state, tmp_path, tokenizer=ABC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "method", "context"),
    [
        ("gpt.pt", tiny_diffusion(5, n_embd=24), "gpt", 256),
        ("weights.pt", tiny_diffusion(5, n_embd=24), "gpt", 256),
        ("tiny-diffusion/gpt.pt", tiny_diffusion(5, n_embd=24), "gpt", 256),
        ("diffusion.pt", tiny_diffusion(5, n_embd=24), "masked_diffusion", 255),
        ("my_diffusion_10k.pt", tiny_diffusion(5, n_embd=24), "masked_diffusion", 255),
        ("gpt.pt", tiny_diffusion(5, n_embd=24, bottleneck=7), "diffusion_flow", 255),
    ],
)
def test_a_state_dict_chooses_its_algorithm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: dict, method: str, context: int
) -> None:
    """Catches a wrong guess from contents and name, or a folder's name taken for the file's; sizes to be typed."""
    monkeypatch.chdir(tmp_path)
    Path(file).parent.mkdir(exist_ok=True)
    torch.save(content, file)
    argv = command_line.expand([f"load={file}", "seed=3"], describe)
    cfg = composed(argv)
    assert cfg.algorithm.name == method and cfg.load == str(Path(file).resolve()) and cfg.seed == 3
    backbone = {"style": "rope", "n_layer": 2, "n_head": 6, "n_embd": 24, "block_size": context}
    assert backbone.items() <= dict(cfg.algorithm.backbone).items()
    if method == "diffusion_flow":
        assert cfg.algorithm.flow.bottleneck == 7
    assert composed(command_line.expand(argv, describe)) == cfg  # as in each process of a data-parallel run


def test_the_command_line_settles_what_the_file_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a guess that beats the user's algorithm, heads or context, and sizes lost beside `algorithm=`."""
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_diffusion(5), "gpt.pt")
    sizes = ["algorithm.backbone.n_head=2", "algorithm.backbone.block_size=9"]
    cfg = composed(command_line.expand(["load=gpt.pt", "algorithm=masked_diffusion", *sizes], describe))
    backbone = cfg.algorithm.backbone
    assert cfg.algorithm.name == "masked_diffusion"
    assert (backbone.n_layer, backbone.n_head, backbone.n_embd, backbone.block_size) == (2, 2, 8, 9)
    cfg = composed(
        command_line.expand(["load=gpt.pt", "algorithm=df_lm"], describe)
    )  # refused when the weights are to be loaded
    assert cfg.algorithm.name == "df_lm" and cfg.algorithm.backbone.n_layer == 3
    with pytest.raises(ValueError, match=r"do not fit n_embd=8: say algorithm.backbone.n_head=N"):
        command_line.expand(["load=gpt.pt", "algorithm.backbone.block_size=9"], describe)
    torch.save(tiny_diffusion(5, bottleneck=7), "flow.pt")
    cfg = composed(command_line.expand(["load=flow.pt", "algorithm=diffusion_flow_reference", *sizes], describe))
    assert (cfg.algorithm.backbone.n_embd, cfg.algorithm.flow.bottleneck) == (8, 7)
    with pytest.raises(ValueError, match=r"flow head of tiny-diffusion: say algorithm=diffusion_flow_reference"):
        command_line.expand(["load=flow.pt", "algorithm=diffusion_flow", *sizes], describe)


@pytest.mark.parametrize(
    ("file", "extra_rows", "chosen"),
    [
        ("gpt.pt", 0, []),
        ("weights.pt", 1, ["algorithm=masked_diffusion"]),
        ("diffusion.pt", 1, []),
        ("diffusion_flow.pt", 1, []),
    ],
)
def test_a_state_dict_is_tested_and_sampled(
    main: Main, corpus: Path, file: str, extra_rows: int, chosen: list[str]
) -> None:
    """Catches a state dict that loads by itself but not through the program: options, vocabulary, mask, tasks."""
    rows = len(set(corpus.read_text(encoding="utf-8"))) + extra_rows
    torch.save(tiny_diffusion(rows, n_embd=16, bottleneck=7 if "flow" in file else None), file)
    command = [f"load={file}", *chosen, "algorithm.backbone.n_head=2", "algorithm.backbone.block_size=24"]
    command += ["dataset=text_file", f"dataset.path={corpus}", "trainer=cpu", "experiment.evaluation.max_batches=1"]
    sampling = ["experiment.sampling.n_samples=2", "experiment.sampling.length=30"]
    outcome = main(*command, *sampling, "experiment.tasks=[test,sampling]", "hydra.run.dir=both")
    assert (outcome.status, outcome.err) == (0, "") and "test/nll" in outcome.out
    outcome = main(*command, *sampling, "experiment.tasks=[sampling]", "hydra.run.dir=alone")
    assert (outcome.status, outcome.err) == (0, "")
    samples = [Path(run, "samples", "samples.txt").read_text(encoding="utf-8") for run in ("both", "alone")]
    assert samples[0] == samples[1] and len(samples[0]) > 60
    wrong = [*command, "dataset.tokenizer=byte", "experiment.tasks=[sampling]"]
    assert "say dataset=tiny_shakespeare dataset.tokenizer=char" in main(*wrong).err
