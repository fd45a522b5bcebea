"""The method at its ends, where it is a GPT and masked diffusion; what its one pass sees; what its loss estimates."""

import pytest
import torch

from algorithms.block_diffusion.block_diffusion import BlockDiffusion, BlockDiffusionConfig
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.randomness import RowRandom
from algorithms.masked_diffusion.masked_diffusion import MaskedDiffusion, MaskedDiffusionConfig
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from experiments.run.build import build
from tests.algorithms.block_diffusion.small_models import T, V, backbone, blocks, ids, lively

STYLES = ["rope", "nanogpt"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def give_weights(model: BaseAlgorithm, other: BaseAlgorithm) -> None:
    """Copy the weights of `other` into those of `model`, which may have more rows: of the mask and of a position."""
    with torch.no_grad():
        theirs = dict(other.named_parameters())
        for name, parameter in model.named_parameters():
            parameter[: len(theirs[name])] = theirs[name]


@pytest.mark.parametrize("style", STYLES)
def test_blocks_of_one_token_are_a_gpt(style: str) -> None:
    """Catches a mask that takes part in the softmax, a clean stream that sees its target, and a loss on top."""
    gpt = lively(GPT(GPTConfig(backbone(style)), vocabulary_size=V))
    model = blocks(1, style=style, next_token_weight=1.0)
    give_weights(model, gpt)
    batch = ids()
    torch.testing.assert_close(model.nll(batch, generator()), gpt.nll(batch, generator()))
    torch.testing.assert_close(model.loss(batch, generator())["loss"], gpt.loss(batch, generator())["loss"])
    assert model.likelihood_kind == "exact" and [*model.likelihoods()] == ["nll"]


@pytest.mark.parametrize("style", STYLES)
def test_one_block_is_masked_diffusion(style: str) -> None:
    """Catches a noisy stream that is causal somewhere, other draws, another weight of a hidden token, and a next-token
    loss where there is no clean stream."""
    config = MaskedDiffusionConfig(backbone(style), objective="any_order")
    masked = lively(MaskedDiffusion(config, vocabulary_size=V))
    model = blocks(T + 1, style=style, next_token_weight=1.0)
    model.load_state_dict(masked.state_dict(), strict=False)
    batch = ids()
    torch.testing.assert_close(model.loss(batch, generator(3))["loss"], masked.loss(batch, generator(3))["loss"])
    torch.testing.assert_close(model.nll(batch, generator(4)), masked.nll(batch, generator(4)))
    assert model.likelihoods().keys() == masked.likelihoods().keys()
    for name, likelihood in masked.likelihoods().items():
        found = model.likelihoods()[name]
        assert found.kind == likelihood.kind
        random = (RowRandom(range(4)) for _ in range(2))
        torch.testing.assert_close(found.nll(batch, next(random)), likelihood.nll(batch, next(random)), msg=name)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("block_len", [1, 2, 3, 4, 5, 12, 13])
def test_what_a_token_is_predicted_from(block_len: int, style: str) -> None:
    """Catches a leak: the logits of a token change with exactly those that it may see, all of its block hidden but for
    the token in its middle."""
    model, batch = blocks(block_len, style=style), ids(1)
    N = model.layout.noisy
    place = torch.arange(N)
    hidden = (place % block_len > 0) & (place % block_len != block_len // 2)

    def logits(of: torch.Tensor) -> torch.Tensor:
        return model.logits(of, of[:, :N].masked_fill(hidden, model.mask_id))[0]

    plain = logits(batch)
    for changed in range(T + 1):
        other = batch.clone()
        other[0, changed] = (other[0, changed] + 1) % V
        moved = (logits(other) - plain).abs().amax(-1) > 1e-9
        for token in range(1, T + 1):
            own = token // block_len * block_len  # where the block of this token begins
            if token == own:
                expected = changed < token
            else:
                inside = own <= changed < own + block_len and not hidden[changed]
                expected = changed < own or inside
            assert bool(moved[token - 1]) == expected, (token, changed)


@pytest.mark.parametrize("settings", [{}, {"block_len": 5}, {"block_len": 12}, {"block_len": 2}])
def test_the_training_loss_is_the_bound_that_evaluation_states(settings: dict) -> None:
    """Catches a weight that is off, above all in a last block that is shorter: same weights, same mean."""
    model, batch = blocks(**{"block_len": 4} | settings), ids(32)
    random = generator()
    with torch.no_grad():
        trained = torch.stack([model.loss(batch, random)["loss"] for _ in range(100)])
        bound = (model.likelihoods().get("any_order") or model.likelihoods()["nll"]).nll(batch, random).mean()
        few = model.nll(batch, random).mean()
    error = float(trained.std()) / 100**0.5
    assert abs(float(trained.mean() - bound)) < 4 * error + 0.02 * float(bound)
    assert abs(float(few - bound)) < 0.05 * float(bound)


def test_parts_of_the_loss_add_up() -> None:
    """Catches a part that is logged in another unit, and a next-token weight that moves the bound."""
    model, weighted, batch = blocks(4), blocks(4, next_token_weight=0.5), ids()
    parts, more = (one.loss(batch, generator()) for one in (model, weighted))
    assert parts.keys() == more.keys() == {"loss", "next_token", "hidden"}
    nats = blocks(1).nll(batch, generator())  # the same weights as a GPT
    firsts = [place for place in range(T) if (place + 1) % 4 == 0]
    others = [place for place in range(T) if (place + 1) % 4]
    torch.testing.assert_close(parts["next_token"], nats[:, firsts].mean())
    torch.testing.assert_close(parts["loss"], (3 * parts["next_token"] + 9 * parts["hidden"]) / 12)
    torch.testing.assert_close(more["loss"], parts["loss"] + 0.5 * nats[:, others].sum() / nats.numel())
    whole = blocks(4, next_token_weight=1.0).loss(batch, generator())
    torch.testing.assert_close(whole["next_token"], nats.mean())
    torch.testing.assert_close(whole["loss"], nats.mean() + 9 / 12 * parts["hidden"])
    assert model.loss_unit == "nats per token" and weighted.loss_unit == "nats per token + next-token loss"


def test_equal_weights_are_the_mean_over_hidden_tokens() -> None:
    """Catches a mean over another number of tokens."""
    model, batch = blocks(4, objective="masked_mean"), ids()
    draws = model.draw(batch, generator())
    nats = model.nats(batch, batch[:, : model.layout.noisy].masked_fill(draws.masked, model.mask_id))
    masked = model.layout.of_last(draws.masked.float(), 0.0)
    expected = (nats * masked).sum() / masked.sum()
    torch.testing.assert_close(model.loss_of(batch, draws)["hidden"], expected)


def test_shares_are_drawn_from_their_range() -> None:
    """Catches a range that evaluation follows, too, or that training does not."""
    narrow, batch = blocks(T + 1, mask_range=[0.3, 0.5]), ids(64)
    counts = narrow.draw(batch, generator()).masked.sum(1)
    assert counts.min() == 4 and counts.max() == 6
    assert torch.equal(narrow.nll(batch, generator()), blocks(T + 1).nll(batch, generator()))


def test_the_mask_is_never_predicted() -> None:
    """Catches a softmax over the mask token in either stream."""
    model, batch = blocks(4), ids()
    before = model.nll(batch, generator())
    with torch.no_grad():
        model.model.lm_head.weight[model.mask_id] = 100.0
    assert torch.equal(model.nll(batch, generator()), before)


def test_shorter_windows_have_a_layout_of_their_own() -> None:
    """Catches the last window of a split, which may be shorter than a block, laid out as a whole one."""
    model = blocks(4)
    for tokens in (2, 3, 4, 5, 9):
        batch = ids(2, tokens)
        nll = model.nll(batch, generator())
        assert nll.shape == (2, tokens - 1) and bool((nll > 0).all())
        assert model.loss(batch, generator())["loss"].isfinite()
        assert model.layout_of(batch) is model.layout_of(batch)  # is not made anew in each step


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"block_len": 66}, "algorithm.block_len is 66: the window holds 65 tokens, set it to at most that"),
        ({"block_len": 0}, "algorithm.block_len is 0"),
        ({"mask_range": [0.5, 0.5]}, r"algorithm.mask_range is \[0.5, 0.5\]: it must be \[low, high\]"),
        ({"mask_range": [0.5]}, "mask_range"),
        ({"mask_range": [0.5, 1.5]}, "mask_range"),
        ({"objective": "mean"}, "objective is 'mean': choose one of"),
        ({"decoder": {"name": "threshold", "chunk_len": 8}}, "algorithm.decoder.chunk_len is 8: a text is decided in"),
        ({"decoder": {"name": "ancestral", "context_len": 0}}, "algorithm.decoder.context_len is 0"),
        ({"decoder": {"name": "flow_threshold"}}, "decoder.name is 'flow_threshold'"),
    ],
)
def test_bad_settings_are_one_sentence(settings: dict, words: str) -> None:
    """Catches settings that cannot hold in blocks and would pass in silence, or fail deep in torch."""
    with pytest.raises(ValueError, match=words) as caught:
        build(BlockDiffusionConfig, settings, "algorithm")
    assert "\n" not in str(caught.value)


def test_a_block_may_be_the_window() -> None:
    """Catches a limit that is off by one."""
    model = BlockDiffusion(BlockDiffusionConfig(backbone(), block_len=T + 1), vocabulary_size=V)
    assert model.layout.clean == 0 and model.layout.noisy == T + 1
