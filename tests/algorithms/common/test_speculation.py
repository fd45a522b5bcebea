"""Self-speculative decoding: a text is distributed as one token after the other would be, whatever is drafted, and by
whichever method."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.block_diffusion.block_diffusion import BlockDiffusion, BlockDiffusionConfig
from algorithms.block_diffusion.decoding import BlockDrafter
from algorithms.common import speculation
from algorithms.common.backbone import BackboneConfig
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.sampling import context_start, target_logits
from algorithms.common.speculation import Speculative, accept
from algorithms.diffusion_forcing.config import DFLMConfig, DiffusionConfig
from algorithms.diffusion_forcing.df_lm import DFLM
from algorithms.diffusion_forcing.models import StreamConfig
from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig
from experiments.run.build import build
from tests.algorithms.diffusion_forcing.tiny_models import asked, faithful, write

V, BLOCK = 3, 4
KINDS = ["two_stream", "shifted", "blocks"]


def tiny(kind: str = "two_stream", style: str = "rope", block_size: int = BLOCK, block_len: int = 4) -> BaseAlgorithm:
    """A network with strong opinions, so that drafts are often refused."""
    backbone = BackboneConfig(1, 2, 16, block_size, style=style)
    if kind == "blocks":
        model = BlockDiffusion(BlockDiffusionConfig(backbone, block_len=block_len), vocabulary_size=V)
    else:
        config = DFLMConfig(
            backbone,
            parameterisation=kind,
            embedding=EmbeddingConfig(dim=8),
            diffusion=DiffusionConfig(beta_schedule="information", objective="pred_x0"),
            streams=StreamConfig(max_window=2),
        )
        model = DFLM(config, vocabulary_size=V)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.5, generator=generator)
    return model.double().eval()


def next_probabilities(model: BaseAlgorithm, ids: torch.Tensor, **setting: float) -> torch.Tensor:
    """Probabilities (B, V) of the token after ids (B, T), in the context that a GPT has here, or that the clean stream
    of blocks was trained on."""
    if isinstance(model, BlockDiffusion):
        network, trained = model.model, (model.window - 1) // model.block_len * model.block_len
    else:
        network, trained = model.denoiser.model, BLOCK
    context = ids[:, context_start(ids.size(1), trained) :]
    return target_logits(network(context)[:, -1, :V], **setting).softmax(-1)


@given(
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
)
def test_a_draft_and_its_verification_follow_the_distribution_verified_by(p, q):
    """Catches a wrong ratio or residual: over all drafts and an even grid of uniforms the token's distribution is p."""
    p, q = (torch.tensor(x, dtype=torch.double) for x in (p, q))
    p, q = p / p.sum(), q / q.sum()
    n = 400
    even = (torch.arange(n, dtype=torch.double) + 0.5) / n
    found = torch.zeros(4, dtype=torch.double)
    for draft in range(4):
        for second in (0.125, 0.375, 0.625, 0.875):  # enough to see each residual token's share to 1/4
            uniform = torch.stack([even, torch.full_like(even, second)], dim=1)
            count, token = accept(
                torch.stack([p, p]).expand(n, -1, -1),
                q.expand(n, 1, -1),
                torch.full((n, 1), draft),
                torch.ones(n, dtype=torch.long),
                uniform,
            )
            taken = (count == 1).double().mean()
            assert taken == pytest.approx(min(1.0, float(p[draft] / q[draft])), abs=1 / n)
            if second == 0.125:
                found[draft] += q[draft] * taken
            refused = token[count == 0]
            if len(refused):
                residual = (p - q).clamp(min=0)
                cdf = (residual / residual.sum()).cumsum(0)
                assert (refused == int((cdf <= second).sum())).all()
    # What is accepted of each token, and the residual's share of what is refused, make up p.
    residual = (p - q).clamp(min=0)
    torch.testing.assert_close(found + residual, p, rtol=0, atol=4 / n)


def test_nothing_is_accepted_beyond_the_limit_and_then_the_draw_is_plain():
    """Catches drafts of another context that are taken, and a residual where nothing was refused."""
    p = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]], dtype=torch.double)
    q = torch.tensor([[[1.0, 0.0]]], dtype=torch.double)
    for uniform, token in ((0.2, 0), (0.8, 1)):
        draws = torch.tensor([[0.0, uniform]], dtype=torch.double)
        assert [int(x) for x in accept(p, q, torch.tensor([[0]]), torch.tensor([0]), draws)] == [0, token]


@pytest.mark.parametrize(
    ("kind", "drafts", "size"),
    [
        *(("two_stream", 2, {}), ("two_stream", 3, {}), ("shifted", 2, {}), ("blocks", 2, {})),
        ("blocks", 1, {"block_len": 3, "block_size": 8}),  # of 8 tokens the clean stream reads 6
        *(("blocks", drafts, {"block_len": 5, "block_size": 8}) for drafts in (1, 3)),
    ],
)
@pytest.mark.parametrize("style", ["rope", "nanogpt"])
def test_every_distribution_verified_by_is_the_networks_own(monkeypatch, kind, drafts, size, style):
    """Catches a cache, a mask or positions that make a pass differ from the plain network, before and beyond the end of
    the context: each token drawn, and each draft taken, was judged by the output distribution of a GPT with the
    same text."""
    model, judged = tiny(kind, style, **size), []
    plain = speculation.accept

    def recording(p, q, drafts, limit, uniform, lenience):
        count, token = plain(p, q, drafts, limit, uniform, lenience)
        judged.append((p, drafts, limit, count, token))
        return count, token

    monkeypatch.setattr(speculation, "accept", recording)
    prompt = torch.tensor([[0, 1]])
    out = write(model, prompt, length=17, seeds=[3], decoder=Speculative(draft_tokens=drafts, temperature=0.7))
    text = prompt
    for p, drafted, limit, count, token in judged:
        for i in range(int(limit) + 1):
            so_far = torch.cat([text, drafted[:, :i]], dim=1)
            torch.testing.assert_close(p[:, i], next_probabilities(model, so_far, temperature=0.7), rtol=0, atol=1e-9)
        text = torch.cat([text, drafted[:, : int(count)], token[:, None]], dim=1)
    assert torch.equal(text[:, :19], out.ids)
    assert max(int(count) for _, _, _, count, _ in judged) > 0


@torch.no_grad()
@pytest.mark.parametrize(("block_len", "block_size"), [(4, 8), (8, 16)])
@pytest.mark.parametrize("style", ["rope", "nanogpt"])
def test_blocks_draft_by_what_the_network_says_of_masked_ones(monkeypatch, style, block_len, block_size):
    """Catches drafts of another place, and a block that sees more or less than in training: where it begins as in
    training, they are drawn by the network's own prediction."""
    model = tiny("blocks", style, block_size, block_len)
    taken, drawn, checked = [], [], 0
    plain, draft = speculation.accept, BlockDrafter.draft

    def accepting(*arguments):
        found = plain(*arguments)
        taken.append(int(found[0]))
        return found

    def drafting(*arguments):
        found = draft(*arguments)
        drawn.append(found[1])
        return found

    monkeypatch.setattr(speculation, "accept", accepting)
    monkeypatch.setattr(BlockDrafter, "draft", drafting)
    decoder = Speculative(draft_tokens=block_len - 2)
    for seed in range(10):
        taken.clear()
        drawn.clear()
        ids = write(model, torch.tensor([[seed % V]]), length=block_size, seeds=[seed], decoder=decoder).ids
        layout = model.layout
        x = ids[:, : layout.noisy].masked_fill(~layout.first[: layout.noisy], model.mask_id)
        expected = model.logits(ids, x).softmax(-1)  # of the tokens behind the first
        newest = 0  # place of the newest token that is in the text when drafts are made, but for one
        for count, q in zip(taken, drawn, strict=True):
            newest += count
            if newest % block_len == 0 and newest + block_len <= block_size:
                torch.testing.assert_close(q[0], expected[0, newest + 1 : newest + block_len - 1], rtol=0, atol=1e-9)
                checked += 1
            newest += 1
    assert checked >= 10


@torch.no_grad()
@pytest.mark.parametrize("kind", ["two_stream", "blocks"])
@pytest.mark.parametrize("setting", [{}, {"temperature": 0.6, "top_k": 2}], ids=str)
def test_texts_are_distributed_as_one_token_after_the_other(kind, setting):
    """Catches draws that are not independent of each other, such as a uniform used twice: the texts of three tokens
    that 6,000 seeds give, across the end of the context, follow the enumerated
    distribution."""
    model, N = tiny(kind), 6000
    prompt = torch.tensor([[0, 1, 2]])
    texts = torch.tensor(list(itertools.product(range(V), repeat=3)))
    expected = torch.ones(len(texts), dtype=torch.double)
    for i in range(3):
        so_far = torch.cat([prompt.expand(len(texts), -1), texts[:, :i]], dim=1)
        expected *= next_probabilities(model, so_far, **setting).gather(1, texts[:, i : i + 1])[:, 0]
    decoder = Speculative(draft_tokens=2, **setting)
    out = write(model, prompt.expand(N, -1), length=3, seeds=range(N), decoder=decoder)
    code = (out.ids[:, 3:] * torch.tensor([9, 3, 1])).sum(1)
    seen = torch.bincount(code, minlength=27).double()
    possible = expected > 0
    assert not seen[~possible].any() and int(possible.sum()) == (8 if setting else 27)
    seen, expected, freedom = seen[possible], expected[possible], int(possible.sum()) - 1
    chi_squared = float(((seen - N * expected) ** 2 / (N * expected)).sum())
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("lenience", [1.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_most_probable_text_is_that_of_one_token_after_the_other(kind, lenience):
    """Catches drafts that are taken though another token is the most probable one."""
    model, text = tiny(kind), torch.tensor([[0, 1], [2, 2], [1, 0]])
    decoder = Speculative(draft_tokens=2, temperature=0.0, lenience=lenience)
    fast = write(model, text, length=17, seeds=[0, 1, 2], decoder=decoder)
    for _ in range(17):
        best = next_probabilities(model, text).argmax(-1, keepdim=True)
        text = torch.cat([text, best], dim=1)
    assert torch.equal(fast.ids, text)


def test_lenience_takes_more_drafts():
    """Catches a lenience that is not passed on, or that works the other way."""
    q, p = torch.tensor([[[0.8, 0.2]]]), torch.tensor([[[0.2, 0.8]] * 2])
    uniform = (torch.arange(1000) / 1000)[:, None].repeat(1, 2)
    one = torch.ones(1000, dtype=torch.long)
    for lenience, taken in ((1.0, 0.25), (0.5, 0.5), (0.2, 1.0)):
        many = p.expand(1000, -1, -1), q.expand(1000, -1, -1), torch.zeros(1000, 1, dtype=torch.long), one, uniform
        assert accept(*many, lenience)[0].float().mean() == pytest.approx(taken, abs=2e-3)
    model, prompt = tiny("blocks"), torch.zeros(20, 1, dtype=torch.long)
    costs = [
        write(model, prompt, length=20, seeds=range(20), decoder=Speculative(lenience=lenience)).tokens_per_forward
        for lenience in (1.0, 0.01)
    ]
    assert costs[0] + 0.1 < costs[1] <= 3


@pytest.mark.parametrize(("kind", "drafts"), [("two_stream", 3), ("blocks", 2)])
def test_a_batch_gives_each_row_what_it_gets_alone(kind, drafts):
    """Catches rows that read each other's slots, or draws that depend on who else is unfinished."""
    model = tiny(kind)
    prompt = torch.tensor([[0], [1], [2]])
    decoder = Speculative(draft_tokens=drafts)
    together = write(model, prompt, length=20, seeds=[5, 6, 7], decoder=decoder)
    for row in range(3):
        alone = write(model, prompt[row : row + 1], length=20, seeds=[5 + row], decoder=decoder)
        assert torch.equal(alone.ids, together.ids[row : row + 1])
        assert alone.row_forwards.tolist() == [together.row_forwards[row].item()]


@pytest.mark.parametrize("kind", ["two_stream", "blocks"])
def test_costs_and_traces_are_what_the_backbone_was_asked_for(kind):
    """Catches passes or tokens that are not counted, and a trace that ends before the text does."""
    model, calls = tiny(kind), []
    model.drafter(2).network.backbone.register_forward_hook(
        lambda _, given, __: calls.append(given[0].shape[:2].numel())
    )
    out = write(
        model, torch.tensor([[0], [1]]), length=15, seeds=[0, 1], decoder=Speculative(draft_tokens=2), trace=True
    )
    assert out.forwards == len(calls) and out.token_forwards == sum(calls)
    assert out.trace.forwards[-1] == out.forwards and out.decided == 30
    assert torch.equal(out.trace.tokens[-1], out.ids) and not out.trace.levels[-1].any()
    assert (out.trace.levels.diff(dim=0) <= 0).all()
    assert out.tokens_per_forward == pytest.approx(30 / int(out.row_forwards.sum()))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"draft_tokens": 0}, "draft_tokens is 0: it must be at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0: it must be at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"lenience": 0.0}, "lenience is 0.0: it must be above 0"),
        ({"top_k": 0}, "top_k is 0: it must be at least 1"),
        ({"top_p": 1.5}, "top_p is 1.5: it must be at most 1"),
    ],
)
def test_bad_settings_are_named(settings, words):
    """Catches settings that would draft nothing or allow no token."""
    with pytest.raises(ValueError, match=words):
        build(Speculative, settings, "algorithm.decoder")


def test_what_cannot_be_drafted_is_refused():
    """Catches a pass that does not fit the context, known text to the right that would be ignored in silence, and a
    network without next tokens."""
    model, prompt = tiny(), torch.tensor([[0]])
    decoder, wanted = Speculative(draft_tokens=1), asked(prompt, length=3, seeds=[0])
    decoder.check(model, wanted)
    with pytest.raises(ValueError, match="a context of 4 has room for 3 drafts: lower it, or train"):
        Speculative(draft_tokens=4).check(model, wanted)
    with pytest.raises(ValueError, match="left to right"):
        decoder.check(model, asked(prompt, length=3, seeds=[0], suffix=prompt))
    hole = replace(wanted, given=torch.tensor([[True, False, True, False]]))
    with pytest.raises(ValueError, match="give no tokens behind those to be written, or take another decoder"):
        decoder.check(model, hole)
    with pytest.raises(ValueError, match=r"algorithm\.parameterisation=two_stream"):
        decoder.check(faithful(), wanted)


@pytest.mark.parametrize(
    ("settings", "drafts", "words"),
    [
        (
            {"block_len": 2},
            None,
            "name is 'speculative': behind .* block_len=2 has 0 drafts: take another decoder, or train",
        ),
        ({"block_len": 4}, 3, "draft_tokens is 3: behind .* block_len=4 has 2 drafts: lower it, or train"),
        (
            {"block_len": 4, "next_token_weight": 0.0},
            None,
            "verifies next tokens, and next_token_weight=0 has taught none",
        ),
        ({"block_len": 5}, None, "verifies next tokens, and block_len=5 is the whole window"),
    ],
)
def test_blocks_that_cannot_draft_are_refused(settings, drafts, words):
    """Catches windows that were never trained, and drafts verified by a head that has not learned to."""
    backbone, decoder = BackboneConfig(1, 2, 16, BLOCK), Speculative(draft_tokens=drafts)
    with pytest.raises(ValueError, match=rf"decoder\..*{words}"):
        BlockDiffusionConfig(backbone, decoder=decoder, **settings)
    model = BlockDiffusion(BlockDiffusionConfig(backbone, **settings), vocabulary_size=V)
    with pytest.raises(ValueError, match=words):
        decoder.check(model, asked(torch.tensor([[0]]), length=3, seeds=[0]))


@pytest.mark.parametrize(("block_len", "drafts"), [(3, 1), (4, 2), (5, 3), (8, 3)])
def test_as_many_are_drafted_as_a_block_holds(block_len, drafts):
    """Catches a default that does not fit short blocks."""
    config = BlockDiffusionConfig(BackboneConfig(1, 2, 16, 16), block_len=block_len, decoder=Speculative())
    assert BlockDiffusion(config, vocabulary_size=V).drafter(None).drafts == drafts
