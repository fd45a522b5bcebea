"""Settings of the decoders, and what `check` refuses before anything is written."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from algorithms.common.decoder import Request
from algorithms.common.speculation import Speculative
from algorithms.diffusion_forcing.config import DFLMConfig
from algorithms.diffusion_forcing.decoding.settings import MatrixDecoder
from algorithms.diffusion_forcing.models import StreamConfig
from experiments.run.build import build
from tests.algorithms.diffusion_forcing.tiny_models import MEAN, asked, faithful, shifted, some_ids, two_stream, write


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"name": "autoregressive"},
            r"does not fit .*: choose algorithm/decoder=autoregressive_matrix\|.*\|speculative",
        ),
        ({"schedule": "piramid"}, "algorithm.decoder.schedule is 'piramid': did you mean 'pyramid'"),
        ({"token_draw": "first"}, "token_draw is 'first': choose one of "),
        ({"rounding": "up"}, "rounding is 'up': choose one of nearest, head"),
        ({"keyword": "king", "token_draw": "mean"}, "guidance_scale"),
        ({"guidance_scale": 1.0, "token_draw": "mean"}, "set both or neither"),
        ({"keyword": "king", "guidance_scale": 1.0}, "token_draw=mean"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"temperature": -0.1}, "algorithm.decoder.temperature is -0.1: it must be at least 0"),
        ({"temperature": float("nan")}, "algorithm.decoder.temperature is nan: it must be a finite number"),
        ({"top_p": 0.0}, "algorithm.decoder.top_p is 0.0: it must be above 0"),
        (
            {"temperature": 0.5, "token_draw": "mean"},
            "algorithm.decoder.temperature has no effect with token_draw=mean",
        ),
        ({"top_k": 1, "token_draw": "mean"}, "algorithm.decoder.top_k has no effect with token_draw=mean"),
        ({"top_p": 0.5, "token_draw": "mean"}, "algorithm.decoder.top_p has no effect with token_draw=mean"),
        ({"uncertainty_scale": -1.0}, "uncertainty_scale is -1.0"),
        ({"ddim_eta": 1.5}, "ddim_eta is 1.5: it must be at most 1"),
        ({"sliding": True, "use_cache": False}, "set use_cache=true"),
    ],
)
def test_bad_decoders_are_named(changes, words):
    """Catches decoder options that are out of range or ignored in silence."""
    with pytest.raises(ValueError, match=words):
        build(DFLMConfig, {"decoder": {"name": "matrix"} | changes}, "algorithm")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "full_sequence"}, "20 tokens in flight do not fit the context of 8: raise uncertainty_scale"),
        ({"use_cache": False}, "20 tokens at once do not fit the window of 8: set chunk_size to at most 8"),
        ({"sampling_timesteps": 17}, "sampling_timesteps must be 1 to timesteps = 16"),
        ({"stabilization_level": 17}, "stabilization_level must be 0 to timesteps = 16"),
        ({"keyword": "9", "guidance_scale": 1.0}, "token 9 of the keyword is outside the vocabulary of 5 tokens"),
        ({"keyword": "", "guidance_scale": 1.0}, "the keyword of the guidance is empty"),
    ],
)
def test_a_decoder_that_cannot_generate_is_named_before_training(changes, words):
    """Catches tokens that the network cannot see together, and settings of the process that fail after the training."""
    decoder, model = replace(MEAN, chunk_size=20, **changes), two_stream()
    request = asked(some_ids(1, 1), length=30, seeds=[0])
    with pytest.raises(ValueError, match=words):
        decoder.check(model, request)
    with pytest.raises(ValueError, match=words):
        model.generate(request, decoder)
    replace(MEAN, chunk_size=20).check(model, request)  # of which 8 are in flight


def test_a_keyword_needs_a_tokenizer():
    """Catches a keyword that nobody can encode, which would fail after the training."""
    decoder = replace(MEAN, keyword="41", guidance_scale=1.0)
    request = asked(some_ids(1, 1), length=3, seeds=[0])
    decoder.check(two_stream(), request)
    with pytest.raises(ValueError, match="keyword needs a tokenizer"):
        decoder.check(two_stream(), replace(request, encode=None))


@pytest.mark.parametrize(
    ("make", "changes", "decoder", "words"),
    [
        (faithful, {}, MatrixDecoder(), "token_draw=sample needs token probabilities: set token_draw=mean"),
        (
            faithful,
            {},
            replace(MEAN, token_draw="last"),
            "token_draw=last needs token probabilities: set token_draw=mean",
        ),
        (faithful, {}, Speculative(), "algorithm.parameterisation=two_stream"),
        (shifted, {}, MatrixDecoder(token_draw="chain"), "token_draw=chain needs a network trained for it"),
        (
            two_stream,
            {"streams": StreamConfig(max_window=4, chain=0.0)},
            MatrixDecoder(token_draw="chain"),
            "streams.chain above 0",
        ),
        (
            two_stream,
            {"style": "nanogpt"},
            MatrixDecoder(sliding=True),
            "sliding needs rotary positions",
        ),
    ],
)
def test_the_decoder_that_is_passed_is_the_one_that_is_checked(make, changes, decoder, words):
    """Catches a check of the configured decoder where another one is passed, and a decoder that asks for what the
    network has not."""
    request, fine = asked(some_ids(1, 1), length=3, seeds=[0]), replace(MEAN, chunk_size=4)
    for configured in (fine, decoder):
        model = make(decoder=configured, **changes)
        fine.check(model, request)
        with pytest.raises(ValueError, match=re.escape(words)):
            decoder.check(model, request)
        with pytest.raises(ValueError, match=re.escape(words)):
            model.generate(request, decoder)
        assert model.generate(request, fine).ids.shape == (1, 4)
    with pytest.raises(ValueError, match=re.escape(words)):
        model.generate(request)  # the configured one


def test_every_chunk_of_every_text_is_checked():
    """Catches a check of the first chunk, or of the first text alone: prompts and lengths may differ."""
    model, decoder = two_stream(), replace(MEAN, schedule="full_sequence", chunk_size=None)
    prompts = [[1, 2], [1, 2, 3]]
    decoder.check(model, Request.continuing(prompts, length=8, seeds=[0, 1]))
    longer = replace(
        Request.continuing(prompts, length=9, seeds=[0, 1]),
        lengths=[10, 12],
        given=torch.tensor([[True] * 2 + [False] * 10] * 2),
    )
    with pytest.raises(ValueError, match="10 tokens in flight do not fit the context of 8"):
        decoder.check(model, longer)


@pytest.mark.parametrize(
    "decoder", [replace(MEAN, chunk_size=3), MatrixDecoder(schedule="pyramid"), Speculative(draft_tokens=2)]
)
def test_ragged_prompts_are_written_as_each_alone(decoder):
    """Catches texts of other lengths that reach into each other."""
    model, prompts = two_stream(), [[1, 2], [3], [4, 0, 2], [1, 1]]
    together = model.generate(Request.continuing(prompts, length=4, seeds=[0, 1, 2, 3]), decoder)
    for row, prompt in enumerate(prompts):
        alone = write(model, torch.tensor([prompt]), length=4, seeds=[row], decoder=decoder)
        assert together.texts[row] == alone.texts[0]


def test_what_is_not_given_may_hold_anything():
    """Catches ids outside the vocabulary, such as a mask token, that are looked up before they are written."""
    model = two_stream()
    for decoder in (MEAN, Speculative(draft_tokens=2)):
        request = asked(some_ids(2, 2), length=4, seeds=[0, 1])
        strange = replace(request, ids=request.ids.masked_fill(~request.given, 99))
        assert torch.equal(model.generate(strange, decoder).ids, model.generate(request, decoder).ids)


def test_a_stop_token_ends_a_text():
    """Catches tokens behind the first stop token, which count for nothing."""
    model = two_stream()
    request = asked(some_ids(20, 2), length=6, seeds=range(20))
    plain, stopped = (
        model.generate(request, MEAN),
        model.generate(replace(request, stop=lambda generated: generated[-1] == 3), MEAN),
    )
    for text, cut in zip(plain.texts, stopped.texts, strict=True):
        ends = [place for place, token in enumerate(text) if token == 3 and place >= 2]
        assert cut == (text[: ends[0] + 1] if ends else text)
    assert len(set(map(len, stopped.texts))) > 1


def test_the_matrix_is_shown():
    """Catches a picture of another decoder's matrix, or one wider than a chunk or a window."""
    model = two_stream(decoder=replace(MEAN, chunk_size=4))
    (shown,) = model.artifacts()
    assert (shown.name, shown.plot, shown.options["top"]) == ("scheduling_matrix", "map", MEAN.sampling_timesteps)
    assert np.array_equal(shown.values, MEAN.matrix(4).numpy())
    assert two_stream(decoder=MEAN).artifacts()[0].values.shape[1] == 9  # a window
    assert list(two_stream(decoder=Speculative()).artifacts()) == []
