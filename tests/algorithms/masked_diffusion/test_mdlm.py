"""Our bound against the estimate that MDLM evaluates with, on the same weights and windows.

Source: MDLM (arXiv:2406.07524, eq. 10, continuous time, SUBS parameterisation), set as kuleshov-group/mdlm at c112c52:
sigma(t) = -log(1 - (1 - eps) t), the weight sigma' / (e^sigma - 1), which is 1/t, and t antithetic in
[eps, 1]. B windows, T tokens that may be hidden, V vocabulary; nats are of a whole window.
"""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.masked_diffusion.likelihood import any_order_bound, nats_of_logits
from algorithms.masked_diffusion.masking import hide

EPS = 1e-3
V, T, B = 4, 6, 64
MASK = V
Network = Callable[[Tensor], Tensor]
Weight = Callable[[Tensor, Tensor, Tensor], Tensor]  # sigma (B, 1), its derivative (B, 1), masks (B, T) -> (B, 1)


def of_mdlm(sigma: Tensor, rate: Tensor, masked: Tensor) -> Tensor:
    return rate / torch.expm1(sigma)


def over_masked_tokens(sigma: Tensor, rate: Tensor, masked: Tensor) -> Tensor:
    """A wrong weight: the mean over the hidden tokens, as if it were one over all."""
    return T / masked.sum(1, keepdim=True).clamp(min=1)


def mdlm_estimate(network: Network, ids: Tensor, *, generator: torch.Generator, weight: Weight = of_mdlm) -> Tensor:
    """Nats (B,) of windows ids (B, T + 1), one draw of t and of the masks for each."""
    rows = len(ids)
    shares = (torch.rand(rows, generator=generator) + torch.arange(rows)) / rows  # one in each of B cells
    t = (EPS + (1 - EPS) * shares[torch.randperm(rows, generator=generator)])[:, None]  # (B, 1)
    sigma, rate = -torch.log1p(-(1 - EPS) * t), (1 - EPS) / (1 - (1 - EPS) * t)
    masked = torch.rand(rows, T, generator=generator) < 1 - torch.exp(-sigma)  # (B, T)
    nats = nats_of_logits(network(hide(ids, masked, MASK))[:, 1:], ids[:, 1:])  # (B, T)
    return (nats * masked * weight(sigma, rate, masked)).sum(1)


def nats_by_count(network: Network, ids: Tensor) -> Tensor:
    """Nats (B, T) of the hidden tokens, the mean over all masks that hide n = 1 ... T of them."""
    by_count = []
    for n in range(1, T + 1):
        masks = [torch.tensor([i in hidden for i in range(T)]) for hidden in itertools.combinations(range(T), n)]
        nats = [nats_of_logits(network(hide(ids, m.expand(len(ids), T), MASK))[:, 1:], ids[:, 1:]) * m for m in masks]
        by_count.append(torch.stack(nats).double().sum(2).mean(0))  # (B,)
    return torch.stack(by_count, 1)


def exact_bound(by_count: Tensor) -> Tensor:
    """What the any-order bound (B,) estimates: T/n times the nats of n hidden tokens, n uniform (2110.02037, eq. 6)."""
    return (by_count / torch.arange(1, T + 1)).sum(1)


def exact_mdlm(by_count: Tensor) -> Tensor:
    """What MDLM's estimate (B,) estimates: the integral of eq. 10 over [eps, 1], by the midpoint rule."""
    t = EPS + (1 - EPS) * (torch.arange(20_000, dtype=torch.double) + 0.5) / 20_000
    p, n = (1 - EPS) * t[:, None], torch.arange(1, T + 1)
    ways = torch.tensor([math.comb(T, k) for k in range(1, T + 1)], dtype=torch.double)
    return by_count @ (ways * p**n * (1 - p) ** (T - n) / t[:, None]).mean(0)


def random_network() -> LanguageModel:
    torch.manual_seed(0)
    config = BackboneConfig(n_layer=1, n_head=2, n_embd=16, block_size=T + 1)
    network = LanguageModel(config, V + 1, attention="bidirectional")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return network


def trained_network(markov) -> LanguageModel:
    """The same after some steps on a Markov chain."""
    network = random_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for step in range(60):
        ids = markov.sample(B, T + 1, seed=step)
        bound = any_order_bound(lambda x: network(x)[..., :V], ids, mask_id=MASK, passes=1, generator=generator)
        optimizer.zero_grad()
        bound.mean().backward()
        optimizer.step()
    return network


@pytest.fixture(params=["random", "trained"])
def network(request, markov) -> Network:
    model = random_network() if request.param == "random" else trained_network(markov)
    return torch.no_grad()(lambda x: model(x)[..., :V])  # SUBS: the mask has no probability


def errors(differences: Tensor) -> float:
    """How many standard errors the mean of differences (N,) lies from 0."""
    return float(differences.mean() / (differences.std() / len(differences) ** 0.5))


def test_both_estimates_agree_on_the_same_windows(network, markov):
    """Catches a weight, a law of masks or a parameterisation by which one of the two is no estimate of the bound; the
    mean over masked tokens in the weight's place is such a fault, and seen."""
    ids = markov.sample(B, T + 1, seed=99).repeat(250, 1)  # (16000, T + 1)
    draw = torch.Generator().manual_seed(2)
    ours = any_order_bound(network, ids, mask_id=MASK, passes=1, generator=draw).sum(1)
    theirs = mdlm_estimate(network, ids, generator=draw)
    assert abs(errors(theirs - ours)) < 4  # the bias of eps, a thousandth, is less than one
    by_count = nats_by_count(network, ids[:B])
    assert abs(errors(ours - exact_bound(by_count).repeat(250))) < 4
    assert abs(errors(theirs - exact_mdlm(by_count).repeat(250))) < 4
    wrong = mdlm_estimate(network, ids, generator=draw, weight=over_masked_tokens)
    assert abs(errors(wrong - ours)) > 10


def test_the_bias_of_eps(network, markov):
    """Catches a bias of another size than eps explains: the integral leaves out a thousandth at either end, where a
    token costs its nats among clean ones and among hidden ones, and divides by what is left."""
    by_count = nats_by_count(network, markov.sample(B, T + 1, seed=99))
    bound = exact_bound(by_count)
    few, all_hidden = by_count[:, 0] * T, by_count[:, -1]  # nats of T tokens, each hidden alone, and all hidden
    expected = EPS * (bound - few - all_hidden)
    torch.testing.assert_close(exact_mdlm(by_count) - bound, expected, rtol=0.02, atol=1e-4)


def test_a_uniform_model_loses_eps_log_v():
    """Catches a wrong end of the integral: where every token costs the same, it is (1 - eps) T log V."""
    costs = math.log(V) * torch.arange(1, T + 1, dtype=torch.double)[None]
    assert float(exact_bound(costs)) == pytest.approx(T * math.log(V))
    assert float(exact_mdlm(costs)) == pytest.approx((1 - EPS) * T * math.log(V), rel=1e-7)
