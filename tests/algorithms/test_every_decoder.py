"""What every decoder of every method keeps to: temperature, top_k and top_p, prompts of any lengths, and where a text
ends."""

import typing
from dataclasses import replace

import pytest
import torch
from torch import nn

from algorithms.block_diffusion.block_diffusion import BlockDiffusion, BlockDiffusionConfig
from algorithms.common.backbone import BackboneConfig
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.decoder import Decoder, Request
from algorithms.common.sampling import target_logits
from algorithms.common.speculation import Speculative
from algorithms.diffusion_flow.decoders import FlowThreshold, FlowTopConfidence
from algorithms.diffusion_flow.diffusion_flow import DiffusionFlow, DiffusionFlowConfig
from algorithms.diffusion_flow.velocity import VelocityFlowConfig
from algorithms.diffusion_forcing.decoding.settings import AnyDecoder, MatrixDecoder
from algorithms.masked_diffusion.decoding import Ancestral, EntropyBound, Remasking, Threshold, TopConfidence, TwoStage
from algorithms.masked_diffusion.masked_diffusion import MaskedDiffusion, MaskedDiffusionConfig
from algorithms.teacher_forcing.decoding import Autoregressive
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from tests.algorithms.diffusion_forcing.tiny_models import MEAN, V, faithful, lively, two_stream
from tests.algorithms.writing import write

BLOCK = 8
BACKBONE = BackboneConfig(2, 2, 16, BLOCK)


def plain(cls: type, config: object) -> BaseAlgorithm:
    return lively(cls(config, vocabulary_size=V).eval())


MODELS = {
    "gpt": lambda: plain(GPT, GPTConfig(BACKBONE)),
    "df": two_stream,
    "faithful": faithful,
    "masked": lambda: plain(MaskedDiffusion, MaskedDiffusionConfig(BACKBONE)),
    "blocks": lambda: plain(BlockDiffusion, BlockDiffusionConfig(BACKBONE, block_len=3)),
    "flow": lambda: plain(DiffusionFlow, DiffusionFlowConfig(BACKBONE)).float(),
    "velocity": lambda: plain(DiffusionFlow, DiffusionFlowConfig(BACKBONE, flow=VelocityFlowConfig())).float(),
}
MASKED = {
    "first hitting": Ancestral(),
    "ancestral": Ancestral(steps=3),
    "top confidence": TopConfidence(tokens_per_step=2),
    "threshold": Threshold(threshold=0.4, confidence="margin"),
    "entropy bound": EntropyBound(budget=1.0),
    "remasking": Remasking(steps=6, eta=0.5),
    "two stages": TwoStage(draft_threshold=0.3, confirm_threshold=0.5),
}
PYRAMID = MatrixDecoder(schedule="pyramid", sampling_timesteps=2, chunk_size=6)
DRAWING = {  # (model, decoder): all that draw tokens
    "autoregressive": ("gpt", Autoregressive()),
    "recomputed": ("gpt", Autoregressive(use_cache=False)),
    "one after the other": ("df", MatrixDecoder()),
    "through levels": ("df", MatrixDecoder(sampling_timesteps=2)),
    "sliding": ("df", MatrixDecoder(sliding=True)),
    "pyramid": ("df", PYRAMID),
    "pyramid, uncached": ("df", replace(PYRAMID, use_cache=False)),
    "chain": ("df", replace(PYRAMID, token_draw="chain")),
    "drawn at last": ("df", replace(PYRAMID, token_draw="last", ddim_eta=0.0)),
    "speculative": ("df", Speculative(draft_tokens=2)),
    "speculative, blocks": ("blocks", Speculative()),
    **{name: ("masked", decoder) for name, decoder in MASKED.items()},
    **{f"{name}, blocks": ("blocks", decoder) for name, decoder in MASKED.items()},
    "flow": ("flow", FlowTopConfidence(tokens_per_step=2)),
    "flow, threshold": ("flow", FlowThreshold(threshold=0.4)),
    "velocity": ("velocity", FlowThreshold(threshold=0.4)),
}
ALL = DRAWING | {"mean": ("df", replace(MEAN, chunk_size=6)), "faithful": ("faithful", replace(MEAN, chunk_size=6))}
SEES_NO_NOISE = ("autoregressive", "recomputed", "one after the other", "through levels", "sliding", "speculative")
SEES_NO_NOISE += ("speculative, blocks",)
SEES_NO_NOISE += tuple(
    f"{name}{of}" for name in ("top confidence", "threshold", "entropy bound", "two stages") for of in ("", ", blocks")
)
SEES_NO_NOISE += ("velocity",)


@pytest.fixture(scope="module")
def model_of() -> typing.Callable[[str], BaseAlgorithm]:
    made = {name: make() for name, make in MODELS.items()}
    return made.__getitem__


def ids(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(0, V, (rows, tokens), generator=torch.Generator().manual_seed(1))


def test_no_decoder_is_left_out() -> None:
    """Catches a new decoder that is not held to what stands here."""
    known = {type(decoder) for _, decoder in ALL.values()}
    every = {Autoregressive, *typing.get_args(AnyDecoder)}
    for config in (MaskedDiffusionConfig, BlockDiffusionConfig, DiffusionFlowConfig):
        every |= set(typing.get_args(typing.get_args(typing.get_type_hints(config, include_extras=True)["decoder"])[0]))
    assert every == known


@pytest.mark.parametrize("name", DRAWING)
def test_one_candidate_is_temperature_zero(model_of, name: str) -> None:
    """Catches a draw where none is wanted, a filter that a decoder does not pass on, and settings that change what they
    should not."""
    method, decoder = DRAWING[name]
    asked = {"length": 9, "seeds": [0, 1, 2]}

    def written(**changes: object) -> torch.Tensor:
        return write(model_of(method), ids(3, 2), decoder=replace(decoder, **changes), **asked).ids

    best = written(temperature=0.0)
    same = [{"top_k": 1}, {"top_p": 1e-9}]
    if method in ("gpt", "df"):  # elsewhere the temperature is that of the confidences, too
        same += [{"temperature": 1e-40}]
    for settings in same:
        assert torch.equal(written(**settings), best), settings
    assert torch.equal(written(top_p=1.0), written()) and not torch.equal(written(), best)
    if name in SEES_NO_NOISE:
        other = write(model_of(method), ids(3, 2), decoder=replace(decoder, temperature=0.0), length=9, seeds=[7, 8, 9])
        assert torch.equal(other.ids, best)


class Constant(nn.Module):
    """A head that always says the same."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.weight = torch.zeros(len(logits), 16, dtype=torch.float64)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*h.shape[:-1], -1)


LOGITS = torch.tensor([0.3, 1.0, -0.5, 0.9, 0.0], dtype=torch.float64)
SETTING = {"temperature": 0.6, "top_k": 4, "top_p": 0.8}  # of which each changes the distribution


@pytest.mark.parametrize("name", [name for name in DRAWING if name not in ("drawn at last", "velocity")])
def test_tokens_follow_the_filtered_distribution(name: str) -> None:
    """Catches a token outside of the candidates, a filter before the temperature, and shares that are not those of the
    network: one that says the same everywhere writes that distribution, whatever is written beside it."""
    method, decoder = DRAWING[name]
    model = MODELS[method]()
    language_model = model.denoiser.model if method == "df" else model.model
    masks = [torch.tensor([9.0])] if method in ("masked", "blocks", "flow") else []  # never predicted
    language_model.lm_head = Constant(torch.cat([LOGITS, *masks]).to(next(model.parameters()).dtype))
    flow = {"flow_step": 0.0} if method == "flow" else {}  # latents that say nothing
    rows, length = 200, 6
    out = write(model, ids(rows, 1), length=length, seeds=range(rows), decoder=replace(decoder, **SETTING, **flow))
    expected = target_logits(LOGITS, **SETTING).softmax(-1)
    shares = torch.bincount(out.ids[:, 1:].flatten(), minlength=V) / (rows * length)
    assert (shares[expected == 0] == 0).all() and 1 < int((expected > 0).sum()) < V
    assert (shares - expected).abs().max() < 4.5 * (0.25 / (rows * length)) ** 0.5


def test_ties_go_to_the_lowest_id() -> None:
    """Catches a draw among equals where one token is asked for."""
    tied = torch.tensor([0.0, 2.0, 2.0, 2.0, 1.0])
    for setting in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.1}):
        assert (target_logits(tied, **setting) > -torch.inf).tolist() == [False, True, False, False, False]
    assert (target_logits(tied, top_k=2) > -torch.inf).tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("name", ALL)
def test_prompts_may_be_longer_than_the_window(model_of, name: str) -> None:
    """Catches a prompt that is refused or shortened, and tokens that are out of sight and still count: the newest are
    the context, as far as the window reaches, at the positions that they were trained at."""
    method, decoder = ALL[name]
    prompt = ids(2, 30)
    whole = write(model_of(method), prompt, length=11, seeds=[3, 4], decoder=decoder)
    assert torch.equal(whole.ids[:, :30], prompt) and whole.lengths == (41, 41)
    seen = {
        "sliding": 30 - 2 * BLOCK - 2,  # every layer sees as far back again
        "speculative, blocks": 18,  # the clean stream of blocks of 3 has 6 tokens, and a context jumps by half of that
    }.get(name, 20)
    cut = write(model_of(method), prompt[:, seen:], length=11, seeds=[3, 4], decoder=decoder)
    assert torch.equal(whole.ids[:, seen:], cut.ids)


@pytest.mark.parametrize("name", ALL)
def test_prompts_of_several_lengths_are_written_as_each_alone(model_of, name: str) -> None:
    """Catches rows that depend on their company, the short ones or the long one."""
    method, decoder = ALL[name]
    prompts = [ids(1, n)[0].tolist() for n in (3, 20, 3)]
    together = write(model_of(method), prompts, length=7, seeds=[5, 6, 7], decoder=decoder)
    for row, prompt in enumerate(prompts):
        alone = write(model_of(method), [prompt], length=7, seeds=[5 + row], decoder=decoder)
        assert together.texts[row] == alone.texts[0]


def ends_at_three(generated: typing.Sequence[int]) -> bool:
    return generated[-1] == 3


@pytest.mark.parametrize("name", ALL)
def test_a_text_ends_where_it_stops(model_of, name: str) -> None:
    """Catches text behind its end, an end in the prompt, rows cut at their neighbour's, and other text for stopping."""
    method, decoder = ALL[name]
    prompt = torch.cat([torch.full((6, 1), 3), ids(6, 2)], dim=1)
    asked = {"length": 12, "seeds": range(6)}
    free = write(model_of(method), prompt, decoder=decoder, **asked)
    out = model_of(method).generate(Request.continuing(prompt, **asked, stop=ends_at_three), decoder)
    for text, cut, length in zip(free.ids.tolist(), out.texts, out.lengths, strict=True):
        end = text.index(3, 3) + 1 if 3 in text[3:] else 15
        assert cut == text[:end] and length == end
    assert out.decided == sum(out.lengths) - 3 * 6 < free.decided


@pytest.mark.parametrize(
    "name", [name for name in ALL if ALL[name][0] != "faithful" and "drawn at last" not in name and name != "mean"]
)
def test_what_has_ended_costs_no_more(model_of, name: str) -> None:
    """Catches passes for texts that have all ended."""
    method, decoder = ALL[name]
    asked = {"length": 20, "seeds": [0, 1]}
    free = write(model_of(method), ids(2, 2), decoder=decoder, **asked)
    request = Request.continuing(ids(2, 2), **asked, stop=lambda generated: len(generated) == 2)
    out = model_of(method).generate(request, decoder)
    assert out.lengths == (4, 4) and out.texts == free.ids[:, :4].tolist()
    assert out.forwards <= free.forwards / 2
    if name in ("autoregressive", "one after the other"):
        assert out.forwards == 2


def test_a_stop_is_asked_about_generated_tokens_alone() -> None:
    """Catches an end found across the prompt, and one at a token that was given."""

    class Writes(Decoder):
        name = "writes"

        def decode(self, model, request):
            from algorithms.common.decoder import Generation

            return Generation(request.ids.where(request.given, 1), 1, 1, 4)

    known = torch.tensor([[True, True, False, True, False, False]])
    request = Request(torch.tensor([[1, 1, 0, 2, 0, 0]]), known, [0], stop=lambda generated: generated[-2:] == [2, 1])
    assert Writes().generate(None, request).texts == [[1, 1, 1, 2, 1]]
    at_given = replace(request, stop=lambda generated: generated[-1] == 2)
    assert Writes().generate(None, at_given).lengths == (6,)


@pytest.mark.parametrize("name", ALL)
def test_texts_are_written_in_mixed_precision(name: str) -> None:
    """Catches an operation on two dtypes, which a GPU's default precision would stumble over."""
    method, decoder = ALL[name]
    model = MODELS[method]().float()
    with torch.autocast("cpu", torch.bfloat16):
        ids = write(model, [[1, 2], [2, 1]], decoder=decoder, length=5, seeds=[0, 1]).ids
    assert ids.shape == (2, 7) and bool((ids < V).all())
