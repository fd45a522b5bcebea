"""Settings of Diffusion Forcing LM: what cannot be is said before training, in one sentence with the remedy."""

import re
from dataclasses import replace

import pytest

from algorithms.common.backbone import BackboneConfig
from algorithms.diffusion_forcing.config import DFLMConfig, DiffusionConfig
from algorithms.diffusion_forcing.decoding.settings import MatrixDecoderConfig, SpeculativeConfig
from algorithms.diffusion_forcing.models import FaithfulDenoiser, ShiftedDenoiser, StreamConfig, TwoStreamDenoiser
from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig
from experiments.run.build import build
from tests.algorithms.diffusion_forcing.tiny_models import MEAN, faithful, shifted, some_ids, two_stream

PLAIN = DiffusionConfig(objective="pred_noise", beta_schedule="cosine")
INFORMED = DiffusionConfig(objective="pred_x0", beta_schedule="information")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"parameterisation": "shift"}, "algorithm.parameterisation is 'shift': did you mean 'shifted'?"),
        (
            {"diffusion": PLAIN},
            "objective is 'pred_noise': parameterisation=two_stream predicts the clean",
        ),
        ({"diffusion": PLAIN, "parameterisation": "shifted"}, "set it to pred_x0"),
        (
            {"mse_weight": 0.0, "ce_weight": 0.0},
            "algorithm.mse_weight and ce_weight are both 0: one of them must be",
        ),
        ({"mse_weight": -1.0}, "algorithm.mse_weight is -1.0: it must be at least 0"),
        ({"self_conditioning": 1.5}, "algorithm.self_conditioning is 1.5: it must be at most 1"),
        ({"self_conditioning": 0.5, "parameterisation": "faithful", "decoder": MEAN}, "set it to 0"),
        ({"diffusion": INFORMED, "parameterisation": "faithful", "decoder": MEAN}, "take cosine, linear or sigmoid"),
        ({"diffusion": INFORMED, "embedding": EmbeddingConfig(norm="free")}, "set embedding.norm=fixed"),
        ({"parameterisation": "faithful"}, "token_draw=sample needs token probabilities: set token_draw=mean"),
        (
            {"parameterisation": "faithful", "decoder": replace(MEAN, token_draw="last")},
            "token_draw=last needs token probabilities: set token_draw=mean",
        ),
        ({"parameterisation": "faithful", "decoder": SpeculativeConfig()}, "take parameterisation=two_stream"),
        (
            {"parameterisation": "shifted", "decoder": MatrixDecoderConfig(token_draw="chain")},
            "token_draw=chain needs a network trained for it",
        ),
        (
            {"streams": StreamConfig(chain=0.0), "decoder": MatrixDecoderConfig(token_draw="chain")},
            "streams.chain above 0",
        ),
        (
            {"backbone": BackboneConfig(1, 1, 8, 4, style="nanogpt"), "decoder": MatrixDecoderConfig(sliding=True)},
            "algorithm.decoder.sliding needs rotary positions",
        ),
    ],
)
def test_impossible_combinations_are_named(settings, words):
    """Catches a combination that would train nothing, or fail only after training."""
    given = {
        "backbone": BackboneConfig(1, 1, 8, 4),
        "diffusion": DiffusionConfig(beta_schedule="cosine"),
        "decoder": MatrixDecoderConfig(),
    }
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        build(DFLMConfig, given | settings, "algorithm")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fit_every_steps": 0}, "diffusion.fit_every_steps is 0: it must be at least 1"),
        ({"beta_schedule": "information", "log_snr_shift": -1.0}, "set it to 0"),
    ],
)
def test_impossible_processes_are_named(changes, words):
    """Catches a fit that would divide by zero, and a shift that a fitted schedule ignores."""
    with pytest.raises(ValueError, match=words):
        build(DiffusionConfig, changes, "algorithm.diffusion")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "autoregressive"}, "does not fit .*: choose one of matrix, speculative"),
        ({"schedule": "piramid"}, "algorithm.decoder.schedule is 'piramid': did you mean 'pyramid'"),
        ({"token_draw": "first"}, "token_draw is 'first': choose one of "),
        ({"rounding": "up"}, "rounding is 'up': choose one of nearest, head"),
        ({"keyword": "king", "token_draw": "mean"}, "guidance_scale"),
        ({"guidance_scale": 1.0, "token_draw": "mean"}, "set both or neither"),
        ({"keyword": "king", "guidance_scale": 1.0}, "token_draw=mean"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": 0.5, "token_draw": "mean"}, "temperature has no effect"),
        ({"uncertainty_scale": -1.0}, "uncertainty_scale is -1.0"),
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
        ({"ddim_eta": 1.5}, "ddim_eta must be from 0 to 1"),
        ({"keyword": "king", "guidance_scale": 1.0}, "keyword needs a tokenizer"),
    ],
)
def test_a_decoder_that_cannot_generate_is_named_before_training(changes, words):
    """Catches tokens that the network cannot see together, and settings of the process that fail after the training."""
    decoder = replace(MEAN, chunk_size=20, **changes)
    with pytest.raises(ValueError, match=rf"algorithm\.decoder: .*{words}"):
        two_stream(decoder=decoder).check_generation(30)
    with pytest.raises(ValueError, match=words):
        two_stream().generate(some_ids(1, 1), length=30, seeds=[0], decoder=decoder)
    two_stream(decoder=replace(MEAN, chunk_size=20)).check_generation(30)  # of which 8 are in flight


def test_faithful_recipe_with_learned_positions_needs_the_trunks_width():
    """Catches a position table of another width than the embeddings it is added to."""
    with pytest.raises(ValueError, match="set dim to null"):
        faithful("nanogpt", embedding=EmbeddingConfig(dim=4, norm="free"))


def test_the_default_is_the_two_streams():
    """Catches a default that silently falls back to another recipe."""
    assert DFLMConfig(BackboneConfig(1, 1, 8, 4), diffusion=INFORMED).parameterisation == "two_stream"
    kinds = {"two_stream": TwoStreamDenoiser, "shifted": ShiftedDenoiser, "faithful": FaithfulDenoiser}
    for model in (two_stream(), shifted(), faithful()):
        assert type(model.denoiser) is kinds[model.config.parameterisation]
    assert (
        two_stream().likelihood_kind == shifted().likelihood_kind == "exact" and faithful().likelihood_kind == "bound"
    )
