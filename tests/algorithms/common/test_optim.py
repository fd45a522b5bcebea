"""The learning-rate schedule, and which parameter is stepped how: AdamW's decay groups, and Muon beside them."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common import optim
from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.common.optim import (
    MuonAdamW,
    OptimizerConfig,
    decay_groups,
    make_optimizer,
    newton_schulz,
    orthogonalised,
    warmup_cosine,
)

SHAPES = [(6, 6), (4, 9), (9, 4)]
MUON = OptimizerConfig(name="muon", lr=0.05)


def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(BackboneConfig(2, 2, 8, 4, style="nanogpt", bias=True), 5)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def train(network: LanguageModel, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Steps on random texts, each with its own; the learning rate falls as a schedule would have it."""
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step)
        ids = torch.randint(5, (3, 4), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(ids).logsumexp(-1).square().mean().backward()
        optimizer.step()


@given(st.integers(0, 50), st.integers(51, 400), st.floats(0, 1))
def test_schedule_rises_then_falls_to_its_floor(warmup, total, floor):
    """Catches a jump between warm-up and cosine, a value above 1, or a floor that is missed."""
    values = [warmup_cosine(s, warmup_steps=warmup, total_steps=total, min_ratio=floor) for s in range(total + 5)]
    assert all(a < b for a, b in pairwise(values[: warmup + 1]))
    assert values[warmup] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(values[warmup:]))
    assert values[total] == pytest.approx(floor) and values[-1] == floor


def test_every_parameter_is_in_one_group():
    """Catches a tied weight counted twice, and gains or biases that decay."""
    network = model()
    decayed, free = (group["params"] for group in decay_groups(network.parameters(), 0.1))
    assert sum(p.numel() for p in decayed + free) == sum(p.numel() for p in network.parameters())
    assert all(p.dim() >= 2 for p in decayed) and all(p.dim() < 2 for p in free)


def test_muon_takes_the_matrices_of_the_blocks():
    """Catches an embedding, a head or a bias that is orthogonalised, and a weight in two groups or in none."""
    network = model()
    network.backbone.blocks[0].requires_grad_(False)
    names = {p: name for name, p in network.named_parameters()}
    groups = make_optimizer(network, MUON).param_groups
    matrices, decayed, free = ([names[p] for p in group["params"]] for group in groups)
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert matrices == [f"backbone.blocks.1.{part}.weight" for part in parts] and groups[0]["pieces"] == [3, 1, 1, 1]
    assert decayed == ["wte.weight", "backbone.wpe.weight"] and all("ln_" in n or "bias" in n for n in free)
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert sorted(matrices + decayed + free) == sorted(trained)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.05, 0.1), (0.05, 0.1), (0.05, 0.0)]


@pytest.mark.parametrize("shape", SHAPES)
def test_newton_schulz_is_its_polynomial_of_the_singular_values(shape):
    """Catches a coefficient, a power or a transposition that is wrong: the slow twin takes the matrix apart."""
    x = drawn(3, *shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    for _ in range(optim.NEWTON_SCHULZ_STEPS):
        a, b, c = optim.NEWTON_SCHULZ
        s = a * s + b * s**3 + c * s**5
    assert torch.allclose(newton_schulz(x), u * s[:, None] @ vh, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (64, 16)])
def test_a_direction_is_nearly_the_orthogonal_factor(shape):
    """Catches a direction that is scaled wrongly, and one that still has the gradient's large and small directions."""
    x = drawn(*shape) * torch.logspace(0, -1, shape[1])
    (direction,) = orthogonalised([x])
    assert float(direction.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)
    values = torch.linalg.svdvals(direction) / (0.2 * max(shape) ** 0.5)
    assert values.min() > 0.6 and values.max() < 1.25
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    assert torch.cosine_similarity(direction.flatten(), (u @ vh).flatten(), dim=0) > 0.97


def test_shapes_together_are_what_they_are_alone():
    """Catches directions that come back in another order, or a batch that is normed as one."""
    updates = [drawn(*shape, seed=seed) * 10**seed for seed, shape in enumerate([*SHAPES, *reversed(SHAPES)])]
    for update, direction in zip(updates, orthogonalised(updates), strict=True):
        assert torch.allclose(direction, orthogonalised([update])[0], rtol=1e-5, atol=1e-6)
        assert direction.shape == update.shape and direction.is_contiguous()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_muon_is_that_of_torch():
    """Catches another momentum, scale or decay than torch.optim.Muon's, which works in bfloat16: 3 digits."""
    ours, theirs = ([torch.nn.Parameter(drawn(*shape)) for shape in SHAPES] for _ in range(2))
    rest = [{"params": [torch.nn.Parameter(drawn(2))]}]
    matrices = {"params": ours, "pieces": [1, 1, 1], "weight_decay": 0.5}
    optimizers = [
        MuonAdamW(matrices, rest, lr=0.1, momentum=0.9),
        torch.optim.Muon(theirs, lr=0.1, weight_decay=0.5, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
    ]
    for step in range(3):
        for seed, shape in enumerate(SHAPES):
            ours[seed].grad, theirs[seed].grad = (drawn(*shape, seed=10 * step + seed) for _ in range(2))
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, shape in zip(ours, theirs, SHAPES, strict=True):
        assert (mine - other).norm() < 0.02 * (other - drawn(*shape)).norm()


def test_queries_keys_and_values_are_three_matrices():
    """Catches a packed weight whose three parts are orthogonal to each other."""
    whole = torch.nn.Parameter(drawn(12, 4))
    parts = [torch.nn.Parameter(part.clone()) for part in whole.detach().chunk(3)]
    whole.grad = drawn(12, 4, seed=1)
    for part, gradient in zip(parts, whole.grad.chunk(3), strict=True):
        part.grad = gradient.clone()
    rest = torch.nn.Parameter(drawn(2))
    for parameters, pieces in (([whole], [3]), (parts, [1, 1, 1])):
        matrices = {"params": parameters, "pieces": pieces, "weight_decay": 0.1}
        MuonAdamW(matrices, [{"params": [rest]}], lr=0.1, momentum=0.9).step()
    assert torch.equal(whole, torch.cat(parts))


def test_the_rest_is_stepped_as_adamw_alone_would():
    """Catches AdamW that loses its moments, its decay or its learning rate inside of the one optimiser."""
    ours, theirs = model(), model()
    mixed = make_optimizer(ours, MUON)
    rest = decay_groups([p for name, p in theirs.named_parameters() if "blocks" not in name or p.dim() < 2], 0.1)
    plain = torch.optim.AdamW(rest, lr=0.05, betas=(0.9, 0.99), fused=True)
    for step in range(4):
        for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            mine.grad, other.grad = (drawn(*mine.shape, seed=100 * step + len(name)) for _ in range(2))
        for optimizer in (mixed, plain):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 / (1 + step)
            optimizer.step()
    for group in plain.param_groups:
        names = [name for name, p in theirs.named_parameters() if any(p is one for one in group["params"])]
        assert names and all(torch.equal(ours.get_parameter(name), theirs.get_parameter(name)) for name in names)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_optimiser_goes_on_from_its_state(name, tmp_path):
    """Catches moments that are lost or shared out wrongly on the way through a file, bit for bit."""
    config = OptimizerConfig(name=name)
    whole, begun, resumed = model(), model(), model()
    train(whole, make_optimizer(whole, config), range(6))
    first = make_optimizer(begun, config)
    train(begun, first, range(3))
    torch.save({"model": begun.state_dict(), "optimizer": first.state_dict()}, tmp_path / "x.ckpt")
    stored = torch.load(tmp_path / "x.ckpt", weights_only=True)
    second = make_optimizer(resumed, config)
    resumed.load_state_dict(stored["model"])
    second.load_state_dict(stored["optimizer"])
    train(resumed, second, range(3, 6))
    for mine, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert second.state_dict()["state"].keys() == first.state_dict()["state"].keys()


def test_weights_decay_and_what_has_no_gradient_stays():
    """Catches a decay that is scaled with the matrix, and momentum for a weight that was not used."""
    network = model()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = make_optimizer(network, MUON)
    for name, p in network.named_parameters():
        p.grad = None if "blocks.0" in name else torch.zeros_like(p)
    optimizer.step()
    for name, p in network.named_parameters():
        share = 1.0 if "blocks.0" in name or p.dim() < 2 else 1 - 0.05 * 0.1
        assert torch.allclose(p, share * before[name], rtol=1e-6, atol=0), name
        assert (p in optimizer.state) == ("blocks.0" not in name)


def test_scaled_gradients_are_unscaled_before_they_are_clipped():
    """Catches an optimiser that float16 cannot train: it may neither see the scale nor step on an overflow."""
    plain, scaled = model(), model()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    ids = torch.tensor([[1, 2, 3, 4]])
    optimizers = [make_optimizer(network, MUON) for network in (plain, scaled)]
    plain(ids).square().mean().backward()
    scaler.scale(scaled(ids).square().mean()).backward()
    scaler.unscale_(optimizers[1])
    for network in (plain, scaled):
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
    optimizers[0].step()
    scaler.step(optimizers[1])
    scaler.update()
    for mine, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(mine, other)
    next(scaled.parameters()).grad.fill_(torch.inf)
    scaler.step(optimizers[1])
    for mine, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_closure_gives_the_loss():
    """Catches a step that does not do what Lightning hands it, with gradients on."""
    network = model()
    loss = make_optimizer(network, MUON).step(lambda: network(torch.tensor([[1, 2]])).mean())
    assert loss.requires_grad


def test_a_model_without_blocks_has_adamw_alone():
    """Catches a method without a transformer that Muon cannot be chosen for."""
    assert isinstance(make_optimizer(torch.nn.Embedding(3, 3), MUON), torch.optim.AdamW)


@pytest.mark.parametrize(
    "change",
    [{"lr": 0.0}, {"min_lr_ratio": 1.5}, {"warmup_steps": -1}, {"beta2": 1.0}, {"momentum": 1.0}, {"name": "moun"}],
)
def test_bad_settings_are_named(change):
    """Catches a value out of range that would train to nothing."""
    with pytest.raises(ValueError, match=next(iter(change))):
        OptimizerConfig(**change)
