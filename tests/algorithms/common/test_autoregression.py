"""The loop of one token after the other: steps on fixed addresses against growing ones, and where texts end."""

import pytest
import torch

from algorithms.common import autoregression
from algorithms.common.autoregression import FixedToken
from algorithms.common.backbone import BackboneConfig
from algorithms.common.decoder import Generation, Request
from algorithms.teacher_forcing.decoding import Autoregressive
from algorithms.teacher_forcing.gpt import GPT, GPTConfig

BLOCK, V = 8, 7


def make_gpt(style: str) -> GPT:
    gpt = GPT(GPTConfig(BackboneConfig(2, 2, 16, BLOCK, style=style)), vocabulary_size=V)
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    return gpt.double().eval()


def some_request(length: int = 60, prompt: int = 3, *, holes: bool = False, **options) -> Request:
    """Two texts; with `holes`, of which one has a known token and both another one behind their prompts."""
    ids = torch.randint(V, (2, prompt + length), generator=torch.Generator().manual_seed(1))
    given = (torch.arange(prompt + length) < prompt).expand(2, -1).clone()
    if holes:
        given[0, 20] = True
        given[:, 41] = True
    return Request(ids, given, [3, 4], **options)


def on_fixed_addresses(
    monkeypatch: pytest.MonkeyPatch, gpt: GPT, request: Request, decoder: Autoregressive
) -> Generation:
    """What the step that CUDA captures writes, run as it is on the CPU; the graph alone is missing."""
    steps: list[int] = []
    plain = FixedToken.step

    def step(self: FixedToken) -> None:
        steps.append(1)
        plain(self)

    with monkeypatch.context() as patch:
        patch.setattr(autoregression, "takes_graphs", lambda ids: True)
        patch.setattr(FixedToken, "capture", lambda self, position: self.move(position, self.text.start))
        patch.setattr(FixedToken, "step", step)
        patch.setattr(autoregression, "LONG", 1)
        out = gpt.generate(request, decoder)
    assert len(steps) >= out.steps // 2  # the others read a context anew
    return out


@pytest.mark.parametrize("style", ["nanogpt", "rope"])
@pytest.mark.parametrize("setting", [{}, {"temperature": 0.7, "top_k": 4, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("holes", [False, True])
def test_fixed_addresses_write_what_growing_ones_do(monkeypatch, style, setting, holes):
    """Catches a mask that shows a slot too many or too few, a slot of an earlier context, a column that runs ahead, and
    given tokens that are overwritten: many times beyond the end of the context."""
    gpt, decoder = make_gpt(style), Autoregressive(**setting)
    fixed = on_fixed_addresses(monkeypatch, gpt, some_request(holes=holes), decoder)
    plain = gpt.generate(some_request(holes=holes), decoder)
    recomputed = gpt.generate(some_request(holes=holes), Autoregressive(use_cache=False, **setting))
    assert torch.equal(fixed.ids, plain.ids) and torch.equal(plain.ids, recomputed.ids)
    assert (fixed.forwards, fixed.token_forwards, fixed.decided) == (
        plain.forwards,
        plain.token_forwards,
        plain.decided,
    )


@pytest.mark.parametrize("end", [1, 2, 7, 8, 9, 25, 60])
def test_ends_are_seen_soon_enough_and_cut_the_same(monkeypatch, end):
    """Catches an end that is overlooked between two looks, or more tokens behind it than an eighth of the text."""
    gpt = make_gpt("rope")
    free = gpt.generate(some_request())
    for write in (gpt.generate, lambda asked: on_fixed_addresses(monkeypatch, gpt, asked, Autoregressive())):
        out = write(some_request(stop=lambda generated: len(generated) == end))
        assert out.texts == free.ids[:, : 3 + end].tolist() and out.lengths == (3 + end,) * 2
        assert end <= out.forwards <= min(60, end + end // 8)


def test_a_traced_text_is_the_same_text():
    """Catches a trace that shows another text than is written without it."""
    gpt = make_gpt("rope")
    plain, traced = gpt.generate(some_request()), gpt.generate(some_request(trace=True))
    assert torch.equal(plain.ids, traced.ids) and torch.equal(traced.trace.tokens[-1], plain.ids)


def test_what_is_written_can_be_changed():
    """Catches tensors of the inference mode that leave the loop."""
    out = make_gpt("rope").generate(some_request(trace=True))
    for tensor in (out.ids, out.trace.tokens, out.trace.levels):
        tensor[0, 0] = 1
