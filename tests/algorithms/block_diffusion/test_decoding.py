"""Writing in blocks: with and without a cache, alone and in company, at both ends where it is another method."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from algorithms.common.decoder import Request
from algorithms.masked_diffusion.decoding import (
    Ancestral,
    EntropyBound,
    MaskedDecoder,
    Remasking,
    Threshold,
    TopConfidence,
    TwoStage,
)
from algorithms.masked_diffusion.masked_diffusion import MaskedDiffusion, MaskedDiffusionConfig
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from tests.algorithms.block_diffusion.markov import ChainReader
from tests.algorithms.block_diffusion.small_models import T, V, backbone, blocks, ids, lively
from tests.algorithms.masked_diffusion.conftest import MarkovSource, SharedRandom
from tests.algorithms.writing import write

DECODERS: dict[str, MaskedDecoder] = {
    "first hitting": Ancestral(),
    "ancestral": Ancestral(steps=2),
    "top confidence": TopConfidence(),
    "two at once": TopConfidence(tokens_per_step=2, confidence="margin"),
    "threshold": Threshold(threshold=0.3),
    "falling threshold": Threshold(threshold=0.9, relax=0.8, floor=0.2),
    "entropy bound": EntropyBound(budget=1.0),
    "remasking": Remasking(steps=3, eta=0.5),
    "two stages": TwoStage(draft_threshold=0.3, confirm_threshold=0.5),
    "filtered": TopConfidence(temperature=0.7, top_k=4, top_p=0.9),
    "greedy": TopConfidence(temperature=0.0),
}
LENGTHS = [1, 2, 3, 4, 5, 12, 13]


def texts(seed: int, rows: int = 3, length: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts (B, L) and what is given of them: prompts of one length, and holes of any."""
    random = torch.Generator().manual_seed(seed)
    given = torch.rand(rows, length, generator=random) < 0.3
    prompt = 1 + seed % 7
    given[0, 4:9] = True  # whole blocks of one row
    given[:, :prompt], given[:, prompt] = True, False
    given[:, -1] = False  # a known end would be a suffix, which short blocks refuse
    return ids(rows, length, seed), given


def twin(model, **changes):
    """A model of the same weights."""
    other = blocks(model.block_len, **changes)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("block_len", LENGTHS)
@pytest.mark.parametrize("style", ["rope", "nanogpt"])
def test_the_cache_changes_nothing(block_len: int, style: str) -> None:
    """Catches keys of unfinished tokens that stay, of rows that have left, or of a context that has moved on."""
    model = blocks(block_len, style=style)
    plain = twin(model, style=style, use_cache=False)
    for number, decoder in enumerate(DECODERS.values()):
        tokens, given = texts(number)
        request = Request(tokens, given, [number, 1, 2])
        found, expected = (one.generate(request, decoder) for one in (model, plain))
        assert torch.equal(found.ids, expected.ids) and torch.equal(found.ids[given], tokens[given])
        assert torch.equal(found.row_forwards, expected.row_forwards) and found.steps == expected.steps
        assert found.forwards == expected.forwards and int(found.ids.max()) < V


@examples(st.sampled_from(sorted(DECODERS)), st.sampled_from(LENGTHS), st.integers(0, 10**6))
@settings(max_examples=40)
def test_a_row_is_written_alone_as_in_a_batch(name: str, block_len: int, seed: int) -> None:
    """Catches draws shared between rows, a cache in which they are confused, and passes that one needs for another."""
    model, (tokens, given) = blocks(block_len), texts(seed)
    tokens, given = torch.cat([tokens, tokens[:1]]), torch.cat([given, given[:1]])
    last = int((~given[3, :9]).nonzero().max())
    if 0 < last % block_len < block_len - 1:  # sees what follows it
        given[3, 9:] = True  # is done before the others are
    whole = model.generate(Request(tokens, given, [seed, 1, 2, 3]), DECODERS[name])
    for row, number in enumerate([seed, 1, 2, 3]):
        one = Request(tokens[row : row + 1], given[row : row + 1], [number])
        alone = model.generate(one, DECODERS[name])
        assert torch.equal(alone.ids[0], whole.ids[row])
        assert alone.forwards == int(whole.row_forwards[row])


@pytest.mark.parametrize("name", DECODERS)
def test_one_block_writes_what_masked_diffusion_writes(name: str) -> None:
    """Catches a block that sees less than the window, draws in another order, and a falling bar of another share."""
    masked = lively(MaskedDiffusion(MaskedDiffusionConfig(backbone()), vocabulary_size=V))
    model, prompt = blocks(T + 1), ids(3, 4)
    model.load_state_dict(masked.state_dict(), strict=False)
    request = Request.continuing(prompt, length=9, seeds=[5, 6, 7])
    found = model.generate(request, DECODERS[name])
    expected = masked.generate(request, replace(DECODERS[name], chunk_len=9))
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.row_forwards, expected.row_forwards) and found.forwards == expected.forwards


def test_blocks_of_one_token_write_the_gpts_best() -> None:
    """Catches a context that moves on elsewhere than a GPT's, and passes beside the one of each token."""
    gpt = lively(GPT(GPTConfig(backbone()), vocabulary_size=V))
    model = blocks(1)
    with torch.no_grad():
        theirs = dict(gpt.named_parameters())
        for name, parameter in model.named_parameters():
            parameter[: len(theirs[name])] = theirs[name]
    request = Request.continuing(ids(3, 4), length=40, seeds=[0, 1, 2])
    found = model.generate(request, TopConfidence(temperature=0.0))
    expected = gpt.generate(request, replace(gpt.config.decoder, temperature=0.0))
    assert torch.equal(found.ids, expected.ids)
    assert (found.forwards, found.token_forwards) == (expected.forwards, expected.token_forwards)
    assert found.row_forwards.tolist() == [40] * 3


def test_what_a_text_costs_by_hand() -> None:
    """Catches passes or tokens that are not counted, or counted twice."""
    model, decoder = blocks(4), TopConfidence(tokens_per_step=2)
    # A prompt of 6 tokens: the first block is read, and two tokens of the second decided in one pass; then the second
    # is read, and the three tokens behind the first of the third take two passes.
    out = model.generate(Request.continuing(ids(2, 6), length=6, seeds=[0, 1]), decoder)
    assert (out.forwards, out.steps, out.decided) == (2 + 3, 1 + 3, 12)
    assert out.row_forwards.tolist() == [5, 5]
    assert out.token_forwards == 2 * ((4 + 4) + (4 + 4 + 4))
    assert out.tokens_per_forward == 12 / 10
    plain = twin(model, use_cache=False).generate(Request.continuing(ids(2, 6), length=6, seeds=[0, 1]), decoder)
    assert plain.token_forwards == 2 * ((4 + 8) + (8 + 12 + 12))


def test_the_prompt_is_seen_inside_its_block() -> None:
    """Catches a prompt whose last tokens are hidden because their block is not full, and one that is read causally."""
    model, decoder = blocks(4), TopConfidence(temperature=0.0)
    x = ids(1, 7)
    with torch.no_grad():
        window = torch.cat([x, torch.zeros(1, 6, dtype=torch.long)], dim=1)
        noisy = torch.cat([x, torch.full((1, 5), V)], dim=1)
        expected = model.logits(window, noisy)[0, 6].argmax()
    out = model.generate(Request.continuing(x, length=1, seeds=[0]), decoder)
    assert out.ids[0, 7] == expected and out.forwards == 2


def test_a_suffix_is_seen_inside_its_block_alone() -> None:
    """Catches known text that is not taken into account, and claims that it is where it cannot be."""
    model, decoder = blocks(4), TopConfidence(temperature=0.0)

    def written(suffix: list[int]) -> torch.Tensor:
        request = Request.continuing(ids(8, 2), length=8, suffix=suffix, seeds=range(8))
        return model.generate(request, decoder).ids[:, 2:10]

    one, other = written([0, 0]), written([4, 4])
    assert torch.equal(one[:, :7], other[:, :7])  # to the first token of its block
    assert not torch.equal(one[:, 7], other[:, 7])


@pytest.mark.parametrize(("block_len", "length"), [(1, 2), (2, 2), (2, 3), (4, 6), (4, 7)])
def test_a_suffix_that_nothing_sees_is_refused(block_len: int, length: int) -> None:
    """Catches known text that is accepted and ignored: it begins a block, or follows the first token of one."""
    request = Request.continuing(ids(1, 2), length=length, suffix=[0, 1], seeds=[0])
    with pytest.raises(ValueError, match=rf"suffix is seen inside its own block of block_len={block_len} alone"):
        blocks(block_len).generate(request)


@pytest.mark.parametrize("block_len", [2, 4, 5])
@pytest.mark.parametrize("name", DECODERS)
def test_a_trace_tells_the_whole_story(name: str, block_len: int) -> None:
    """Catches first tokens from nowhere, passes miscounted between blocks, and an end that is not the text."""
    model, (tokens, given) = blocks(block_len), texts(5)
    request = Request(tokens, given, [1, 2, 3])
    plain, found = model.generate(request, DECODERS[name]), model.generate(replace(request, trace=True), DECODERS[name])
    trace = found.trace
    assert torch.equal(plain.ids, found.ids) and plain.trace is None
    assert len(trace.tokens) == found.steps and torch.equal(trace.tokens[-1], found.ids)
    assert trace.forwards[-1] == found.forwards and bool((trace.forwards.diff() > 0).all())
    assert (trace.levels[-1] == 0).all() and (trace.levels[:, given] == 0).all() and (trace.tokens < V).all()
    done = trace.levels == 0
    assert (done[1:] >= done[:-1]).all() and (trace.tokens[1:] == trace.tokens[:-1])[done[:-1]].all()


@pytest.mark.parametrize("options", [{"chunk_len": 4}, {"context_len": 4}])
def test_chunks_beside_blocks_are_refused(options: dict[str, int]) -> None:
    """Catches a decoder's chunks that are given to a trained model, and ignored."""
    model = blocks(4)
    with pytest.raises(ValueError, match=r"_len is 4: a text is decided in blocks of block_len=4") as caught:
        write(model, ids(1, 2), length=2, seeds=[0], decoder=Threshold(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("decoder", [TopConfidence(), Ancestral(), Threshold(threshold=1.0)])
@pytest.mark.parametrize("block_len", [1, 3, 4])
def test_exact_decoders_reproduce_the_chain(markov: MarkovSource, block_len: int, decoder: MaskedDecoder) -> None:
    """Catches first tokens and hidden ones that are drawn from each other's predictions, and a block that is placed
    wrongly once the context has moved on."""
    rows, length = 12_000, 13
    tokens = markov.sample(rows, length, seed=7)
    given = torch.zeros_like(tokens, dtype=torch.bool)
    given[:, 0] = True
    reader = ChainReader(markov, block_len=block_len, window=9)
    out = decoder.write(reader, tokens, given, random=SharedRandom(1), mask_id=markov.V, first=1)
    assert markov.total_variation(out.ids) < 0.012
