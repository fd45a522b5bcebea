"""Settings of Diffusion Forcing LM: what cannot be is said before training, in one sentence with the remedy."""

import re

import pytest

from algorithms.common.backbone import BackboneConfig
from algorithms.diffusion_forcing.config import DFLMConfig, DiffusionConfig
from algorithms.diffusion_forcing.decoding.settings import MatrixDecoder
from algorithms.diffusion_forcing.models import FaithfulDenoiser, ShiftedDenoiser, TwoStreamDenoiser
from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig
from experiments.run.build import build
from tests.algorithms.diffusion_forcing.tiny_models import MEAN, faithful, shifted, two_stream

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
    ],
)
def test_impossible_combinations_are_named(settings, words):
    """Catches a combination that would train nothing, or fail only after training."""
    given = {
        "backbone": BackboneConfig(1, 1, 8, 4),
        "diffusion": DiffusionConfig(beta_schedule="cosine"),
        "decoder": MatrixDecoder(),
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


def test_faithful_recipe_with_learned_positions_needs_the_backbones_width():
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
