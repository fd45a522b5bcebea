"""Diffusion + flow: golden values of the reference, equality with masked diffusion at weight 0, the switches."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.backbone import BackboneConfig
from algorithms.common.backbone.weights import from_tiny_diffusion
from algorithms.common.decoder import Request
from algorithms.common.randomness import RowRandom
from algorithms.diffusion_flow.decoders import FlowThreshold, FlowTopConfidence
from algorithms.diffusion_flow.diffusion_flow import DiffusionFlow, DiffusionFlowConfig
from algorithms.diffusion_flow.flow import PlateauSwitch, interpolate, warmed_up
from algorithms.diffusion_flow.posterior import PosteriorFlowConfig
from algorithms.diffusion_flow.velocity import VelocityFlowConfig, assisted_logits, velocity_error
from algorithms.masked_diffusion.decoding import ChunkState, Threshold, TopConfidence
from algorithms.masked_diffusion.masked_diffusion import MaskedDiffusion, MaskedDiffusionConfig
from algorithms.masked_diffusion.masking import Masks, mean_where
from experiments.run.build import build
from tests.algorithms.writing import fill, write
from tests.golden.values import FOLDER

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
V = 7
FLOWS = [PosteriorFlowConfig(), VelocityFlowConfig(bottleneck=8)]
BACKBONE = BackboneConfig(n_layer=2, n_head=2, n_embd=16, block_size=12)


def make(flow=FLOWS[0], **settings) -> DiffusionFlow:
    return DiffusionFlow(DiffusionFlowConfig(BACKBONE, flow=flow, **settings), vocabulary_size=V)


def ids(rows: int = 6, length: int = 13) -> torch.Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(FOLDER / "tiny_diffusion_models.npz") as data:
        prefix = "diffusion_flow/"
        return {k.removeprefix(prefix): torch.tensor(data[k]) for k in data.files if k.startswith(prefix)}


@pytest.fixture(scope="module")
def reference(golden) -> DiffusionFlow:
    """The reference's network with its weights."""
    config = DiffusionFlowConfig(
        BackboneConfig(n_layer=2, n_head=2, n_embd=32, block_size=24),
        objective="reference",
        flow=VelocityFlowConfig(bottleneck=12),
    )
    method = DiffusionFlow(config, vocabulary_size=65)
    state = {k.removeprefix("state_dict/"): v for k, v in golden.items() if k.startswith("state_dict/")}
    network = {k: v for k, v in state.items() if not k.startswith(("flow_head.", "t_mlp."))}
    method.model.load_state_dict(from_tiny_diffusion(network, mask_first=True))
    renamed = {k.replace("flow_head.", "head.").replace("t_mlp.", "time."): v for k, v in state.items()}
    method.flow.load_state_dict({k: v for k, v in renamed.items() if k.startswith(("head.", "time."))})
    return method.eval()


def ours(tokens: torch.Tensor) -> torch.Tensor:
    """The reference's ids with the mask last."""
    return (tokens.long() - 1) % 66


def test_logits_and_velocity_equal_the_reference(golden, reference) -> None:
    """Catches a wrong head, a time added at the wrong place, weights under the wrong names."""
    hidden = reference.model.hidden(ours(golden["idx"]))
    torch.testing.assert_close(reference.model.lm_head(hidden).roll(1, -1), golden["logits"], **CLOSE)
    torch.testing.assert_close(reference.flow.velocity(hidden, golden["t"]), golden["velocity"], **CLOSE)


def test_loss_equals_the_reference(golden, reference) -> None:
    """Catches another mean of the masked cross-entropies."""
    hidden = reference.model.hidden(ours(golden["idx"]))
    masks = Masks(golden["mask"], torch.ones(3), golden["mask"].sum())
    loss = reference.restoration_loss(hidden, ours(golden["targets"]), masks)
    torch.testing.assert_close(loss, golden["loss"], **CLOSE)


@pytest.mark.parametrize("masked_only", [True, False])
def test_flow_loss_equals_the_reference(golden, reference, masked_only: bool) -> None:
    """Catches a path run backwards, a target of the other sign, another beta or mean."""
    model, flow = reference.model, reference.flow
    progress = 0.02 + 0.96 * golden["flow_uniform"]
    clean, noise = model.wte(ours(golden["targets"])).detach(), golden["flow_noise"]
    predicted = flow.velocity(model.backbone(interpolate(clean, noise, progress)), progress)
    counted = golden["mask"] if masked_only else torch.ones_like(golden["mask"])
    error = mean_where(velocity_error(predicted, clean - noise, 0.1), counted, counted.sum())
    torch.testing.assert_close(error, golden[f"flow_loss_{'masked' if masked_only else 'all'}"], **CLOSE)


def test_flow_weight_equals_the_reference(golden) -> None:
    """Catches a warm-up that is off by a step."""
    weights = [warmed_up(0.1, int(step), 1000) for step in golden["flow_weight_steps"]]
    assert weights == pytest.approx(golden["flow_weight"].tolist(), abs=1e-12)


@pytest.mark.parametrize("flow", [PosteriorFlowConfig(weight=0.0), VelocityFlowConfig(weight=0.0)])
def test_weight_zero_is_masked_diffusion_to_the_bit(flow) -> None:
    """Catches a flow that touches the shared weights, the draws or the loss although it is switched off."""
    plain = MaskedDiffusion(MaskedDiffusionConfig(BACKBONE), vocabulary_size=V)
    both = [plain, make(flow)]
    for method in both:
        optimizer = method.configure_optimizers()["optimizer"]
        for step in range(5):
            optimizer.zero_grad()
            method.loss(ids(), torch.Generator().manual_seed(step))["loss"].backward()
            torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)
            optimizer.step()
        method.eval()
    shared = plain.state_dict()
    assert all(torch.equal(value, both[1].state_dict()[key]) for key, value in shared.items())
    outs = [write(m, ids()[:, :2], length=9, seeds=range(6), decoder=TopConfidence()) for m in both]
    assert torch.equal(outs[0].ids, outs[1].ids)


@pytest.mark.parametrize("flow", FLOWS)
def test_flow_loss_trains_its_own_weights(flow) -> None:
    """Catches a flow loss that no gradient of its head comes from."""
    method = make(flow)
    optimizer = method.configure_optimizers()["optimizer"]
    for _ in range(2):  # behind a layer that starts at zero, gradients come with the second step
        optimizer.zero_grad()
        method.loss(ids(), torch.Generator().manual_seed(0))["loss"].backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.flow.parameters())


def at_step(method: DiffusionFlow, step: int) -> dict[str, torch.Tensor]:
    method._trainer = SimpleNamespace(global_step=step, world_size=1, strategy=SimpleNamespace(reduce=torch.clone))
    parts = method.loss(ids(), torch.Generator().manual_seed(0))
    method._trainer = None
    return parts


def test_the_end_and_the_plateau_switch_the_flow_off() -> None:
    """Catches a switch that is not asked."""
    method = make(VelocityFlowConfig(interval=2, max_step=6, warmup_steps=0, bottleneck=8))
    parts = [at_step(method, step) for step in range(8)]
    assert [float(part["flow_active"]) for part in parts] == [1, 1, 1, 1, 1, 1, 0, 0]
    method = make(VelocityFlowConfig(interval=1, plateau_window=2, plateau_patience=2, bottleneck=8))
    steady = [float(at_step(method, step)["flow_active"]) for step in range(8)]
    assert steady == [1, 1, 1, 1, 1, 1, 0, 0]  # three windows, the last two without a gain: the losses are the same


def test_processes_switch_off_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a switch that each process throws by its own losses: gradients would be averaged with missing ones."""
    method = make(VelocityFlowConfig(interval=1, plateau_window=1, plateau_patience=1, bottleneck=8))
    monkeypatch.setattr(method, "over_processes", lambda value: torch.tensor(5.0))
    assert float(at_step(method, 1)["flow"]) == 5.0
    at_step(method, 2)  # whatever this process gained, all together did not
    assert method.plateau.off


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=40), st.integers(1, 5))
@settings(max_examples=50)
def test_a_resumed_plateau_switch_goes_on_as_before(losses: list[float], window: int) -> None:
    """Catches a window that is lost when a run is resumed in its middle."""
    whole, first = PlateauSwitch(window, 2, 0.01), PlateauSwitch(window, 2, 0.01)
    cut = len(losses) // 2
    for loss in losses:
        whole.record(torch.tensor(loss))
    for loss in losses[:cut]:
        first.record(torch.tensor(loss))
    second = PlateauSwitch(window, 2, 0.01)
    second.load(first.state())
    for loss in losses[cut:]:
        second.record(torch.tensor(loss))
    assert second.state() == whole.state() and second.off == whole.off


class Zeros:
    """Uniforms that are all 0: every draw takes the most probable candidate."""

    def uniform(self, *shape: int, rows) -> torch.Tensor:
        return torch.zeros(len(rows), *shape, dtype=torch.float64)


@pytest.mark.parametrize("case", range(18, 27))
def test_flow_assisted_decoding_equals_the_reference(case: int) -> None:
    """Catches another blend, time, step or threshold: tokens and number of steps are the original's, whose network here
    is a table of P, A and B, its velocity tanh(F[x] + t) and its embeddings E."""
    with np.load(FOLDER / "tiny_diffusion_decoding.npz") as data:
        meta = json.loads(str(data["meta"]))[case]
        theirs = {
            k: torch.from_numpy(data[f"decode/{case}/{k}"]) for k in ("P", "A", "B", "E", "F", "prompt", "tokens")
        }
    P = theirs["P"].roll(-1, 1)  # the mask's column goes last
    A, B = (theirs[k].roll((-1, -1), (0, 1)) for k in "AB")
    E, F = (theirs[k].roll(-1, 0) for k in "EF")
    decoder = FlowThreshold(
        threshold=meta["confidence_threshold"],
        relax=0.25,
        floor=0.6,
        confidence="top_k_mass",
        context_len=meta["prompt_len"],
        chunk_len=meta["max_new_tokens"],
        temperature=meta["temp"],
        top_k=meta["top_k"],
        flow_step=meta["flow_step"],
        flow_until=meta["flow_decode_ratio_threshold"],
    )

    def predict(x: torch.Tensor, chunk: slice, state: ChunkState) -> torch.Tensor:
        mask = torch.full_like(x[:, :1], 65)
        logits = P + A[torch.cat([mask, x[:, :-1]], 1)] + B[torch.cat([x[:, 1:], mask], 1)]
        logits[..., 65] = -30.0
        remaining = state.remaining.float()
        velocity = torch.tanh(F[x] + (1 - remaining)[:, None, None])
        return assisted_logits(logits, E[x], velocity, E, remaining, decoder)[:, chunk, :65]

    prompt = theirs["prompt"][None] - 1
    ids = torch.cat([prompt, torch.zeros(1, meta["max_new_tokens"], dtype=torch.long)], 1)
    given = torch.arange(ids.size(1))[None] < prompt.size(1)
    sizes = {"mask_id": 65, "window": meta["block_size"], "first": prompt.size(1)}
    out = fill(decoder, predict, ids, given, random=Zeros(), **sizes)
    assert torch.equal(out.ids[0] + 1, theirs["tokens"]) and out.steps == meta["total_steps"]


def test_a_resumed_run_logs_what_the_uninterrupted_one_does() -> None:
    """Catches a flow loss that is missing from the curve between a resume and the next flow step."""
    first, second, checkpoint = make(FLOWS[1]), make(FLOWS[1]), {}
    at_step(first, 0)
    first.on_save_checkpoint(checkpoint)
    second.on_load_checkpoint(checkpoint)
    one, other = at_step(first, 1), at_step(second, 1)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert second.plateau.state() == first.plateau.state()


def test_velocity_decoding_is_plain_once_little_is_masked() -> None:
    """Catches a flow that goes on below flow_until, and one that is never asked above it."""
    method = make(FLOWS[1]).eval()
    x = torch.full((1, 13), V)
    x[:, :7] = ids(1)[:, :7]
    chunk = slice(7, 13)
    state = ChunkState.start(x[:, chunk], torch.zeros(1, 6, dtype=torch.bool), mask_id=V, window=13)
    plain = method.predictor(TopConfidence(), RowRandom([0]))(x, chunk, state)
    for until, same in [(0.5, True), (0.4, False)]:  # 6 of 13 are masked
        flow = method.predictor(FlowThreshold(flow_until=until), RowRandom([0]))(x, chunk, state)
        assert torch.equal(flow, plain) is same


def test_posterior_step_reaches_the_code_of_a_certain_token() -> None:
    """Catches a velocity of the wrong length: one step to s = 1 ends at the expected code, none stays."""
    flow = make().flow
    latents, posterior = torch.randn(2, 3, 32), torch.eye(V)[ids(2, 3)]
    zero, one = torch.zeros(2), torch.ones(2)
    torch.testing.assert_close(flow.step(latents, posterior, zero, one), flow.codes()[ids(2, 3)])
    torch.testing.assert_close(flow.step(latents, posterior, zero, zero), latents)
    half = flow.step(flow.step(latents, posterior, zero, one / 2), posterior, one / 2, one)
    torch.testing.assert_close(half, flow.codes()[ids(2, 3)])
    torch.testing.assert_close(flow.codes().norm(dim=-1), torch.full((V,), 2.0))


@pytest.mark.parametrize("decoder", [FlowTopConfidence(tokens_per_step=3), FlowThreshold(threshold=0.3)])
@pytest.mark.parametrize("flow", FLOWS)
def test_flow_decoding_gives_each_row_what_it_gets_alone(flow, decoder) -> None:
    """Catches latents that are drawn for the batch, or lose their row when others finish."""
    method = make(flow).eval()
    together = write(method, ids()[:, :2], length=20, seeds=range(6), decoder=decoder, trace=True)
    assert torch.equal(together.trace.tokens[-1], together.ids) and int(together.ids.max()) < V
    for row in (0, 5):
        alone = write(method, ids()[row : row + 1, :2], length=20, seeds=[row], decoder=decoder)
        assert torch.equal(alone.ids[0], together.ids[row])


@pytest.mark.parametrize("flow", FLOWS)
def test_a_row_follows_the_flow_by_its_own_share(flow) -> None:
    """Catches rows that go on with the flow, or stop, because of the share that another one has still masked."""
    method = make(flow).eval()
    with torch.no_grad():
        for parameter in method.flow.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    known = torch.zeros(6, 20, dtype=torch.bool)
    known[:, 0], known[::2, 3:7] = True, True
    decoder = FlowThreshold(threshold=0.3, flow_until=0.25)
    asked = Request(ids(6, 20), known, range(6))
    together = method.generate(asked, decoder)
    for row in range(6):
        alone = method.generate(Request(ids(6, 20)[row : row + 1], known[row : row + 1], [row]), decoder)
        assert torch.equal(alone.ids[0], together.ids[row])


@pytest.mark.parametrize("flow", FLOWS)
def test_without_a_share_to_follow_it_a_flow_is_as_if_it_were_not(flow) -> None:
    """Catches a flow that is asked although flow_until=1 rules it out."""
    method = make(flow).eval()
    asked = {"length": 9, "seeds": range(6)}
    outs = [write(method, ids()[:, :2], decoder=one, **asked) for one in (FlowThreshold(flow_until=1.0), Threshold())]
    assert torch.equal(outs[0].ids, outs[1].ids)


def test_an_untrained_flow_is_plain_masks_and_bayes_rule() -> None:
    """Catches evidence of a latent counted with another signal-to-noise ratio than that of the path."""
    method = make().eval()
    x = torch.full((2000, 4), V)
    progress = torch.full((2000,), 0.5)
    tokens = torch.randint(0, V, (2000, 4), generator=torch.Generator().manual_seed(1))
    noise = torch.randn(2000, 4, 32, generator=torch.Generator().manual_seed(2))
    codes = method.flow.codes()
    latents = interpolate(codes[tokens], noise, progress)
    logits = method.flow.logits(method.model, x, latents, progress)
    density = -(latents[:, :, None] - 0.5 * codes).square().sum(-1) / (2 * 0.5**2)  # log N(z; s e, (1 - s)²)
    expected = (method.logits(x) + density).log_softmax(-1)
    torch.testing.assert_close(logits.log_softmax(-1), expected, rtol=1e-3, atol=1e-3)


def test_flow_decoders_claim_no_likelihood() -> None:
    """Catches a likelihood of plain masks given out for a decoder that reads other logits."""
    assert not FlowTopConfidence().has_likelihood and not FlowThreshold().has_likelihood
    assert "duel_decoder" not in make().likelihoods() and "any_order" in make().likelihoods()


@pytest.mark.parametrize(
    ("part", "settings", "words"),
    [
        ("flow", {"name": "posterior", "weight": -1}, "algorithm.flow.weight is -1: it must be at least 0"),
        ("flow", {"name": "posterior", "interval": 0}, "algorithm.flow.interval is 0: it must be at least 1"),
        (
            "flow",
            {"name": "posterior", "min_progress": 0.9, "max_progress": 0.1},
            "algorithm.flow.min_progress (0.9) and max_progress (0.1) must lie in [0, 1], the first below the second",
        ),
        ("flow", {"name": "posterior", "code_dim": 0}, "algorithm.flow.code_dim is 0: it must be at least 1"),
        ("flow", {"name": "velocity", "bottleneck": 0}, "algorithm.flow.bottleneck is 0: it must be at least 1"),
        ("flow", {"name": "velocity", "warmup_steps": -1}, "algorithm.flow.warmup_steps is -1: it must be at least 0"),
        ("flow", {"name": "velocity", "code_dim": 8}, "unknown config key 'algorithm.flow.code_dim'"),
        ("decoder", {"name": "flow_threshold", "flow_until": 1.5}, "algorithm.decoder.flow_until is 1.5: it must be"),
        ("decoder", {"name": "flow_top_confidence", "flow_step": -0.1}, "algorithm.decoder.flow_step is -0.1"),
        ("decoder", {"name": "flow_top_confidence", "flow_step": 1.1}, "flow_step is 1.1: it must be at most 1"),
    ],
)
def test_bad_settings_are_one_sentence(part: str, settings: dict, words: str) -> None:
    """Catches a setting out of range that would only show in the figures."""
    with pytest.raises(ValueError, match=re.escape(words)):
        build(DiffusionFlowConfig, {part: settings}, "algorithm")
