"""The backbone: golden values of nanoGPT and tiny-diffusion, visibility, exact cache, initialisation."""

import pytest
import torch

from algorithms.common.backbone import Backbone, BackboneConfig, LanguageModel
from algorithms.common.backbone.masks import attention_mask
from algorithms.common.backbone.weights import from_nanogpt, from_tiny_diffusion
from experiments.run.build import build
from tests.golden.values import assert_golden, golden, in_double

STYLES = ["nanogpt", "rope"]


def tiny(style: str, **kwargs) -> BackboneConfig:
    return BackboneConfig(n_layer=2, n_head=2, n_embd=16, block_size=12, style=style, **kwargs)


@pytest.mark.parametrize("bias", [False, True])
def test_logits_and_loss_equal_nanogpt(bias):
    """Catches any change of arithmetic against nanoGPT: mask, scale, norm epsilon, GELU, tied head."""
    values = in_double(golden("nanogpt.npz", f"nanogpt_bias_{bias}"))
    state = {k.removeprefix("state_dict/"): v for k, v in values.items() if k.startswith("state_dict/")}
    config = BackboneConfig(n_layer=2, n_head=2, n_embd=32, block_size=24, style="nanogpt", bias=bias)
    model = LanguageModel(config, 37).double()
    model.load_state_dict(from_nanogpt(state))
    logits = model(values["idx"].long())
    assert_golden(logits, values["logits"])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), values["targets"].flatten().long())
    assert_golden(loss, values["loss"])


def tiny_diffusion(case: str, attention: str) -> tuple[LanguageModel, dict[str, torch.Tensor]]:
    """The model of a golden case, and the case's values with the mask token as the last of the vocabulary."""
    values = in_double(golden("tiny_diffusion_models.npz", case))
    state = {k.removeprefix("state_dict/"): v for k, v in values.items() if k.startswith("state_dict/")}
    mask_first = case != "gpt"
    size = state["token_emb.weight"].size(0)
    config = BackboneConfig(n_layer=2, n_head=2, n_embd=32, block_size=24)
    model = LanguageModel(config, size, attention=attention).double()
    weights = from_tiny_diffusion(state, mask_first=mask_first)
    model.load_state_dict({k: v for k, v in weights.items() if k in model.state_dict()})
    assert [k for k in weights if k not in model.state_dict()] == [k for k in state if k.startswith(("flow_", "t_mlp"))]
    if mask_first:
        values |= {key: (values[key] - 1) % size for key in ("idx", "targets")}
        values["logits"] = values["logits"].roll(-1, dims=-1)
    return model, values


@pytest.mark.parametrize(
    ("case", "attention"), [("gpt", "causal"), ("diffusion", "bidirectional"), ("diffusion_flow", "bidirectional")]
)
def test_logits_and_loss_equal_tiny_diffusion(case, attention):
    """Catches a wrong order of RoPE and QK-norm, a wrong rotation, a missing norm behind the embedding; q, k and v in
    another order; a mask token that stays in front in the embedding or in the head."""
    model, values = tiny_diffusion(case, attention)
    logits = model(values["idx"].long())
    assert_golden(logits, values["logits"])
    counted = values.get("mask", torch.ones_like(values["idx"])).bool()
    loss = torch.nn.functional.cross_entropy(logits[counted], values["targets"].long()[counted])
    assert_golden(loss, values["loss"])


@pytest.mark.parametrize("style", STYLES)
def test_cached_equals_uncached(style):
    """Catches positions or masks that are off by the cached length, in any split of the sequence."""
    torch.manual_seed(0)
    model = LanguageModel(tiny(style), 7).double()
    ids = torch.randint(0, 7, (3, 12))
    whole = model(ids)
    for cuts in ([1] * 12, [5, 1, 6], [12]):
        cache = model.backbone.new_cache()
        pieces = [model(part, cache=cache) for part in ids.split(cuts, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_what_a_position_sees(style, attention):
    """Catches a leak: the gradient of output i at input j vanishes exactly where j is not visible."""
    torch.manual_seed(0)
    backbone = Backbone(tiny(style), attention=attention).double()
    x = torch.randn(1, 12, 16, dtype=torch.double, requires_grad=True)
    visible = attention_mask(attention, 12, 12)
    direction = torch.randn(16, dtype=torch.double)  # a plain sum of LayerNorm outputs is constant
    for i in range(12):
        (gradient,) = torch.autograd.grad(backbone(x)[0, i] @ direction, x)
        torch.testing.assert_close(gradient[0].abs().sum(-1) > 0, visible[i])


def test_explicit_mask_and_positions_reproduce_the_causal_pass():
    """Catches an explicit mask or numbering that is ignored (two-stream passes rely on both)."""
    torch.manual_seed(0)
    for style in STYLES:
        backbone = Backbone(tiny(style)).double()
        x = torch.randn(2, 12, 16, dtype=torch.double)
        given_mask = backbone(x, mask=attention_mask("causal", 12, 12), positions=torch.arange(12))
        torch.testing.assert_close(given_mask, backbone(x), rtol=0, atol=1e-12)
    shifted = backbone(x, mask=attention_mask("causal", 12, 12), positions=torch.arange(12).flip(0))
    assert not torch.allclose(shifted, backbone(x))  # rope: numbering matters


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("cached", [0, 5])
def test_new_tokens_that_see_each_other(style, cached):
    """Catches a block that stays causal, does not see the past, or leaves its keys in the cache."""
    torch.manual_seed(0)
    model = LanguageModel(tiny(style), 7).double()
    backbone, x = model.backbone, torch.randn(2, 9, 16, dtype=torch.double)
    past, new = backbone.add_positions(x).split([cached, 9 - cached], dim=1)
    index = torch.arange(9)
    mask = attention_mask("causal", 9, 9) | (index[:, None] >= cached)
    whole = backbone(torch.cat([past, new], dim=1), mask=mask, positions=index)[:, cached:]
    cache = backbone.new_cache()
    if cached:
        backbone(past, cache=cache)
    for _ in range(2):
        found = backbone(new, cache=cache, keep=0, bidirectional=True)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    assert cache.length == cached
    if not cached:
        torch.testing.assert_close(backbone(new, bidirectional=True), whole, rtol=0, atol=1e-12)


def test_dropout_acts_in_training_only():
    """Catches dropout left on in evaluation, or never on."""
    torch.manual_seed(0)
    backbone = Backbone(tiny("nanogpt", dropout=0.5))
    x = torch.randn(1, 6, 16)
    assert not torch.equal(backbone(x), backbone(x))
    backbone.eval()
    assert torch.equal(backbone(x), backbone(x))


def test_head_is_tied_only_in_the_nanogpt_style():
    """Catches a head that silently stops (or starts) sharing the embedding."""
    tied, untied = LanguageModel(tiny("nanogpt"), 7), LanguageModel(tiny("rope"), 7)
    assert tied.lm_head.weight is tied.wte.weight
    assert untied.lm_head.weight is not untied.wte.weight


def test_parameter_counts_are_the_published_ones():
    """Catches a changed architecture: baby 10.65 M and GPT-2 124 M without position embeddings, as nanoGPT counts."""
    for sizes, vocabulary, expected in [
        ((6, 6, 384, 256), 65, 10.65e6),
        ((12, 12, 768, 1024), 50257, 123.6e6),
    ]:
        with torch.device("meta"):
            model = LanguageModel(BackboneConfig(*sizes, style="nanogpt"), vocabulary)
        count = sum(p.numel() for p in model.parameters()) - model.backbone.wpe.weight.numel()
        assert abs(count / expected - 1) < 0.005


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_embd": 18, "n_head": 4}, "multiple of n_head"),
        ({"n_embd": 6, "n_head": 2}, "even head size"),
        ({"style": "llama"}, "style is 'llama': choose one of nanogpt, rope"),
        ({"dropout": 1.0}, "dropout"),
        ({"bias": True, "style": "rope"}, "needs style=nanogpt"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_impossible_sizes_are_named(changes, words):
    """Catches a bad size that would surface only as a shape error deep in torch."""
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 4} | changes
    with pytest.raises(ValueError, match=words):
        build(BackboneConfig, sizes, "algorithm.backbone")


def test_too_long_an_input_is_refused():
    """Catches an index error in place of a sentence when the input exceeds the context."""
    model = LanguageModel(tiny("rope"), 7)
    with pytest.raises(ValueError, match="13 tokens do not fit into the context of 12"):
        model(torch.zeros(1, 13, dtype=torch.long))
