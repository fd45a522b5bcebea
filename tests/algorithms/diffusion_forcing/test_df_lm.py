"""Diffusion Forcing LM: what the network may see, its exact likelihood, the law of its samples, its errors."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.diffusion_forcing import df_lm
from algorithms.diffusion_forcing.decoder import MatrixDecoderConfig
from algorithms.diffusion_forcing.denoisers import ShiftedDenoiser
from algorithms.diffusion_forcing.df_lm import DFLM, DFLMConfig, DiffusionConfig, level_bins
from algorithms.diffusion_forcing.embeddings import EmbeddingConfig, TokenTable, round_to_tokens
from algorithms.diffusion_forcing.likelihood import ancestral_bound
from algorithms.diffusion_forcing.noise_levels import RowMixture

V = 5
MEAN = MatrixDecoderConfig(schedule="pyramid", sampling_timesteps=8, ddim_eta=0.0, token_draw="mean")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def shifted(style: str = "rope", fusion: str = "concat_mlp", **changes) -> DFLM:
    settings = {
        "embedding": EmbeddingConfig(dim=4),
        "diffusion": DiffusionConfig(objective="pred_x0", log_snr_shift=-1.4, timesteps=16),
        "rows": RowMixture(independent=1, schedule=1, tail=1, clean=1),
    } | changes
    config = DFLMConfig(BackboneConfig(2, 2, 16, 8, style=style), time_fusion=fusion, **settings)
    model = DFLM(config, vocabulary_size=V)
    torch.nn.init.normal_(model.denoiser.lm_head.weight, 0, 0.5)
    return model.eval()


def faithful(style: str = "nanogpt", objective: str = "pred_noise", **changes) -> DFLM:
    settings = {
        "embedding": EmbeddingConfig(norm="free"),
        "mse_weight": 1.0,
        "ce_weight": 0.0,
        "decoder": MEAN,
        "diffusion": DiffusionConfig(objective=objective),
    } | changes
    config = DFLMConfig(BackboneConfig(2, 2, 16, 8, style=style), parameterisation="faithful", **settings)
    return DFLM(config, vocabulary_size=V).eval()


def some_ids(batch: int = 3, tokens: int = 9) -> torch.Tensor:
    return torch.randint(0, V, (batch, tokens), generator=generator())


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@pytest.mark.parametrize("fusion", ["add", "concat_mlp"])
def test_without_noise_it_is_a_gpt(style, fusion):
    """Catches a shift, a head or a conditioning that differs from teacher forcing when the past is clean: the
    likelihood is that of a GPT whose token embedding is what the trunk receives for a clean token."""
    model = shifted(style, fusion).double()
    denoiser = model.denoiser
    gpt = LanguageModel(model.backbone, V).double().eval()
    gpt.trunk.load_state_dict(denoiser.trunk.state_dict())
    gpt.lm_head.weight = denoiser.lm_head.weight
    tokens = denoiser.conditioning(denoiser.project_in(model.table())[None], torch.zeros(1, V, dtype=torch.long))
    gpt.wte.weight = torch.nn.Parameter(tokens[0].detach())
    ids = some_ids()
    expected = F.cross_entropy(gpt(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
    torch.testing.assert_close(model.nll(ids, generator()), expected, rtol=0, atol=1e-9)


def test_a_tokens_own_noise_stays_out_of_its_prediction():
    """Catches a leak: f for token l may depend on z_<l only, and the posterior on z_l through the channel only."""
    model = shifted().double()
    x = torch.randn(1, 6, 4, dtype=torch.double, requires_grad=True)
    levels = torch.full((1, 6), 7)
    table = model.table()
    prior = model.denoiser.posterior_logits(x, levels, table) - model.denoiser.channel_logits(x, levels, table)
    for position in range(6):
        (gradient,) = torch.autograd.grad(prior[0, position, 1], x, retain_graph=True)
        assert gradient[0, position:].abs().max() < 1e-12
        if position:
            assert (gradient[0, :position].abs().sum(-1) > 0).all()


def test_channel_is_the_gaussian_log_density():
    """Catches a wrong weight of the analytic channel, also for embeddings of unequal norm."""
    model = shifted(embedding=EmbeddingConfig(dim=4, norm="free", scale=9.0)).double()
    table = model.table()
    x = torch.randn(2, 3, 4, dtype=torch.double, generator=generator())
    levels = torch.tensor([[0, 5, 15], [3, 3, 9]])
    abar = model.process.alphas_cumprod[levels][..., None, None]
    density = torch.distributions.Normal(abar.sqrt() * table, (1 - abar).sqrt()).log_prob(x[:, :, None]).sum(-1)
    ours = model.denoiser.channel_logits(x, levels, table)
    torch.testing.assert_close(ours.log_softmax(-1), density.log_softmax(-1), rtol=0, atol=1e-9)


def single_token_process(timesteps: int) -> tuple[DFLM, torch.Tensor]:
    """A model whose next-token prediction is a fixed distribution, so that everything is known in closed form."""
    model = shifted(diffusion=DiffusionConfig(objective="pred_x0", log_snr_shift=-1.4, timesteps=timesteps)).double()
    torch.nn.init.zeros_(model.denoiser.lm_head.weight)
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03], dtype=torch.double)
    head = model.denoiser.lm_head
    head.forward = lambda h: probabilities.log().expand(*h.shape[:-1], V)
    return model, probabilities


def test_path_bound_on_the_autoregressive_schedule_is_the_cross_entropy():
    """Catches a wrong Jacobian, prior or reconstruction term: by I-MMSE the bound with many levels equals -log q."""
    model, probabilities = single_token_process(timesteps=400)
    process, table = model.process, model.table()
    batch = 40_000
    ids = torch.arange(V).repeat(batch // V)[:, None].expand(-1, 2)
    g = generator()
    levels = (torch.rand(batch, generator=g) * 400).long()[:, None].expand(-1, 2)
    noise = torch.randn(batch, 2, 4, generator=g, dtype=torch.double)
    x0 = model.denoiser.embed(ids)
    x = process.q_sample(x0, levels, noise)
    with torch.no_grad():
        estimate = ancestral_bound(process, ids, levels, x0, model.denoiser(x, levels), x, table)[:, 1]
    for token in range(V):
        values = estimate[ids[:, 1] == token]
        error = values.std() / math.sqrt(len(values))
        assert abs(float(values.mean() + probabilities[token].log())) < 4 * float(error) + 0.02


@pytest.mark.parametrize("timesteps", [1, 3, 16])
def test_drawn_tokens_follow_the_prediction_for_any_number_of_levels(timesteps):
    """Catches a reverse step that is not the exact posterior: one level or many, the law is the next-token law."""
    model, probabilities = single_token_process(timesteps=16)
    decoder = MatrixDecoderConfig(sampling_timesteps=timesteps, chunk_size=1)
    n = 6000
    prompt = torch.zeros(n, 1, dtype=torch.long)
    ids = model.generate(prompt, length=1, seeds=range(n), decoder=decoder).ids[:, 1]
    share = torch.bincount(ids, minlength=V) / n
    assert (share - probabilities).abs().max() < 4.5 * math.sqrt(0.25 / n)


def test_the_autoregressive_schedule_samples_the_networks_own_law():
    """Catches a clean past that is shown as noisy, or a wrong shift: the joint law of two tokens is f's."""
    model = shifted()
    decoder = MatrixDecoderConfig(sampling_timesteps=4, chunk_size=2)
    n = 6000
    prompt = torch.full((n, 1), 3)
    ids = model.generate(prompt, length=2, seeds=range(n), decoder=decoder).ids[:, 1:]
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    with torch.no_grad():
        nll = model.nll(torch.cat([torch.full((V * V, 1), 3), pairs], dim=1), generator())
    law = (-nll.sum(1)).exp()
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-4)
    share = torch.bincount(ids[:, 0] * V + ids[:, 1], minlength=V * V) / n
    assert 0.5 * float((share - law).abs().sum()) < 0.04  # total variation; about 0.02 by chance


@pytest.mark.parametrize("make", [shifted, faithful])
def test_batched_generation_equals_single(make):
    """Catches rows that share noise: each row depends on its prompt and seed only, also past the window."""
    model = make()
    prompt = some_ids(batch=3, tokens=2)
    decoder = model.config.decoder if make is shifted else MEAN
    batch = model.generate(prompt, length=15, seeds=[7, 8, 9], decoder=_with_chunk(decoder, 4)).ids
    for row in range(3):
        one = model.generate(prompt[row : row + 1], length=15, seeds=[7 + row], decoder=_with_chunk(decoder, 4))
        assert torch.equal(one.ids[0], batch[row])


def _with_chunk(decoder: MatrixDecoderConfig, chunk: int) -> MatrixDecoderConfig:

    return replace(decoder, chunk_size=chunk)


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("style", ["nanogpt", "rope"])
def test_faithful_bound_of_a_token_depends_on_its_past_only(objective, style):
    """Catches a mask of the two-stream pass that lets a noisy token see its own clean twin or the future."""
    model = faithful(style, objective, embedding=EmbeddingConfig(norm="free", scale=3.0)).double()
    ids = some_ids(batch=1)
    noise_of = generator
    before = model.nll(ids, noise_of())
    for position in range(1, 9):
        changed = ids.clone()
        changed[0, position] = (changed[0, position] + 1) % V
        after = model.nll(changed, noise_of())
        torch.testing.assert_close(after[:, : position - 1], before[:, : position - 1], rtol=0, atol=1e-9)
        assert not torch.equal(after[:, position - 1], before[:, position - 1])


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("fusion", ["add", "concat_mlp"])
@pytest.mark.parametrize("norm", ["free", "fixed"])
def test_every_faithful_recipe_learns(objective, fusion, norm):
    """Catches an objective, fusion or embedding whose loss does not fall, or a part without gradient."""
    model = faithful(
        "nanogpt", objective, time_fusion=fusion, ce_weight=0.5, embedding=EmbeddingConfig(norm=norm)
    ).train()
    ids = some_ids(batch=16)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = model.loss(ids, generator())["loss"]
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_the_default_learns_and_reports_its_parts():
    """Catches parts that are not summed as configured."""
    model = shifted(mse_weight=0.3, ce_weight=0.7)
    parts = {name: value.detach() for name, value in model.loss(some_ids(), generator()).items()}
    assert float(parts["loss"]) == pytest.approx(0.3 * float(parts["mse"]) + 0.7 * float(parts["ce"]), rel=1e-5)
    assert float(parts["embedding_norm"]) == pytest.approx(math.sqrt(4), rel=1e-5)


def test_fixed_norm_embeddings_cannot_collapse():
    """Catches a norm that follows the learned weights."""
    table = TokenTable(V, 9, EmbeddingConfig(dim=9))
    with torch.no_grad():
        table.weight *= 1e-3
    torch.testing.assert_close(table().norm(dim=-1), torch.full((V,), 3.0))


@pytest.mark.parametrize("rounding", ["nearest", "head"])
def test_rounding_returns_the_tokens(rounding):
    """Catches rounding that does not invert the embedding (head does so for equal norms only)."""
    table = TokenTable(V, 8, EmbeddingConfig(dim=8))()
    ids = some_ids()
    assert torch.equal(round_to_tokens(F.embedding(ids, table), table, rounding), ids)


def test_nearest_is_the_l2_neighbour():
    """Catches a product without the norms, where embeddings differ in length."""
    table = torch.randn(V, 3, generator=generator()) * torch.arange(1, V + 1)[:, None]
    x0 = torch.randn(4, 6, 3, generator=generator())
    assert torch.equal(round_to_tokens(x0, table), torch.cdist(x0, table.expand(4, -1, -1)).argmin(-1))


def test_keyword_guidance_raises_the_keyword():
    """Catches guidance of the wrong sign or without effect: the keyword appears more often than unguided."""
    model = shifted(decoder=MEAN)
    model.encode = lambda text: [int(c) for c in text]
    prompt = torch.zeros(40, 1, dtype=torch.long)
    counts = []
    plain = replace(MEAN, schedule="full_sequence")
    for decoder in (plain, replace(plain, keyword="412", guidance_scale=2.0)):
        ids = model.generate(prompt, length=8, seeds=range(40), decoder=decoder).ids
        texts = ["".join(map(str, row.tolist())) for row in ids]
        counts.append(sum("412" in text for text in texts))
    assert counts[1] > 2 * counts[0] + 5


def test_trace_follows_the_matrix():
    """Catches a trace whose levels are not those of the scheduling matrix, or that ends on other tokens."""
    model = shifted()
    out = model.generate(some_ids(2, 2), length=4, seeds=[0, 1], decoder=_with_chunk(MEAN, 4), trace=True)
    matrix = model.matrix(MEAN, 4) / MEAN.sampling_timesteps
    torch.testing.assert_close(out.trace.states[:, 0, 2:], matrix.float())
    assert (out.trace.states[:, :, :2] == 0).all()
    assert torch.equal(out.trace.tokens[-1], out.ids)
    assert out.forwards == len(matrix) - 1
    assert out.trace.forwards.tolist() == list(range(len(matrix)))


@pytest.mark.parametrize("token_draw", ["mean", "sample"])
@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_a_trace_counts_the_passes_up_to_each_state(monkeypatch, chunk_size, token_draw):
    """Catches a pass counted for the noise of a new chunk, and counts shifted against their states."""
    model, passes, at = shifted(), [], []
    model.denoiser.trunk.register_forward_hook(lambda *_: passes.append(1))
    plain = df_lm.round_to_tokens
    monkeypatch.setattr(df_lm, "round_to_tokens", lambda *given: at.append(len(passes)) or plain(*given))
    decoder = replace(_with_chunk(MEAN, chunk_size), token_draw=token_draw)
    out = model.generate(some_ids(2, 2), length=4, seeds=[0, 1], decoder=decoder, trace=True)
    assert out.trace.forwards.tolist() == at[:-1]  # rounded once for each state, and once for the result
    assert int(out.trace.forwards[-1]) == out.forwards == len(passes)
    assert out.trace.forwards.diff().tolist().count(0) == 4 // chunk_size - 1  # new chunks


def test_bins_cover_every_level_once():
    """Catches diagnostics that drop the last level."""
    for timesteps in (1, 3, 4, 32, 33):
        covered = [level for low, high in level_bins(timesteps) for level in range(low, high)]
        assert covered == list(range(timesteps))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"parameterisation": "shift"}, "choose one of shifted, faithful"),
        ({"diffusion": DiffusionConfig(objective="pred_noise")}, "set it to pred_x0"),
        ({"mse_weight": 0.0, "ce_weight": 0.0}, "above 0"),
        ({"parameterisation": "faithful"}, "token_draw=mean"),
    ],
)
def test_impossible_combinations_are_named(settings, words):
    """Catches a combination that would train nothing, or fail only after training."""
    with pytest.raises(ValueError, match=words):
        DFLMConfig(BackboneConfig(1, 1, 8, 4), **({"diffusion": DiffusionConfig(objective="pred_x0")} | settings))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "autoregressive"}, "does not fit algorithm=df_lm"),
        ({"schedule": "piramid"}, "pyramid"),
        ({"keyword": "king", "token_draw": "mean"}, "guidance_scale"),
        ({"keyword": "king", "guidance_scale": 1.0}, "token_draw=mean"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_bad_decoders_are_named(changes, words):
    """Catches decoder options that are out of range or ignored in silence."""
    with pytest.raises(ValueError, match=words):
        MatrixDecoderConfig(**changes)


def test_a_chunk_longer_than_the_window_is_named():
    """Catches a horizon the network cannot see whole."""
    with pytest.raises(ValueError, match="do not fit"):
        shifted().generate(some_ids(1, 1), length=30, seeds=[0], decoder=_with_chunk(MEAN, 20))


def test_faithful_recipe_with_learned_positions_needs_the_trunks_width():
    """Catches a position table of another width than the embeddings it is added to."""
    with pytest.raises(ValueError, match="set dim to null"):
        faithful("nanogpt", embedding=EmbeddingConfig(dim=4, norm="free"))


def test_shifted_denoiser_is_what_the_default_uses():
    """Catches a default that silently falls back to the plain recipe."""
    assert isinstance(shifted().denoiser, ShiftedDenoiser)
    assert shifted().likelihood_kind == "exact" and faithful().likelihood_kind == "bound"
