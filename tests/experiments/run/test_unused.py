"""Settings that make no difference: what is called so is so to the bit, and is said before work."""

import copy
import functools
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from algorithms.common.decoder import Request
from algorithms.diffusion_forcing.process import fitted_levels
from experiments.evaluation.settings import ModelSettings, build_settings, notes_of
from experiments.run.build import build, compose_run
from experiments.run.composition import composed, composing
from experiments.run.registry import ALGORITHMS, look_up
from experiments.run.unused import notes, unused_settings
from tests.conftest import Main

VOCABULARY, WINDOW = 17, 16
SIZES = [f"algorithm.backbone.{size}" for size in ("n_layer=1", "n_head=2", "n_embd=16", f"block_size={WINDOW}")]
SQUARED_ERROR = {"diffusion.snr_clip": 2.0, "diffusion.use_fused_snr": False, "diffusion.cum_snr_decay": 0.5}
STREAMS = {"streams.share": 0.25, "streams.weight": 1.0, "streams.chain": 0.0, "streams.backward_layers": 0}
FLOW = {
    "warmup_steps": 3,
    "interval": 1,
    "max_step": 1,
    "plateau_patience": 1,
    "min_progress": 0.3,
    "max_progress": 0.5,
}
FALLBACK = {"min_draft_confidence": 0.9, "max_stall_steps": 1, "max_block_steps": 1}
MATRIX = "algorithm/decoder=pyramid algorithm.decoder.chunk_size=4"
CASES: dict[str, dict[str, Any]] = {  # choices, and values that change nothing beside them
    "algorithm=gpt algorithm/optimizer=adamw": {"optimizer.momentum": 0.5},
    "algorithm=gpt algorithm.decoder.temperature=0": {"decoder.top_k": 3, "decoder.top_p": 0.5},
    "algorithm=gpt algorithm.decoder.top_k=1": {"decoder.temperature": 3.0, "decoder.top_p": 0.5},
    "algorithm=df_lm": SQUARED_ERROR
    | {
        "decoder.uncertainty_scale": 3.0,
        "decoder.ddim_eta": 0.0,
        "decoder.level_power": 0.5,
        "decoder.rounding": "head",
    },
    "algorithm=df_lm algorithm.decoder.temperature=0": {"decoder.top_k": 3, "decoder.top_p": 0.5},
    "algorithm=df_lm algorithm.mse_weight=1 algorithm.ce_weight=0": {"streams.weight": 1.0},
    "algorithm=df_lm algorithm.mse_weight=1 algorithm.diffusion.use_fused_snr=false": {"diffusion.cum_snr_decay": 0.5},
    "algorithm=df_lm_shifted": SQUARED_ERROR | STREAMS,
    f"algorithm=df_lm_faithful {MATRIX}": STREAMS
    | {"decoder.use_cache": False, "decoder.ddim_eta": 1.0, "diffusion.fit_every_steps": 1},
    f"algorithm=df_lm {MATRIX} algorithm.decoder.schedule=full_sequence": {"decoder.uncertainty_scale": 3.0},
    "algorithm=masked_diffusion algorithm.decoder.temperature=0": {"decoder.top_k": 3, "decoder.top_p": 0.5},
    "algorithm=masked_diffusion algorithm.decoder.tokens_per_step=4 algorithm.decoder.chunk_len=4": {
        "decoder.confidence": "margin"
    },
    "algorithm=masked_diffusion algorithm/decoder=threshold": {"decoder.floor": 0.2},
    "algorithm=masked_diffusion algorithm/decoder=threshold algorithm.decoder.floor=0.95": {
        "decoder.threshold": 0.1,
        "decoder.relax": 0.5,
    },
    "algorithm=masked_diffusion algorithm/decoder=remasking algorithm.decoder.steps=1": {"decoder.eta": 0.9},
    "algorithm=masked_diffusion algorithm/decoder=two_stage algorithm.decoder.draft_threshold=0.9": {
        f"decoder.{key}": value for key, value in (FALLBACK | {"replace_margin": 0.5, "max_draft_age": 1}).items()
    },
    "algorithm=block_diffusion algorithm.block_len=1": {
        "objective": "masked_mean",
        "mask_range": [0.2, 0.9],
        "validation_masks": 2,
        "masks_per_count": 3,
        "next_token_weight": 3.0,
    },
    "algorithm=block_diffusion algorithm.block_len=2": {
        "objective": "masked_mean",
        "mask_range": [0.2, 0.9],
        "validation_masks": 2,
        "masks_per_count": 3,
    },
    "algorithm=block_diffusion algorithm/decoder=speculative": {"use_cache": False},
    "algorithm=df_lm algorithm/decoder=speculative algorithm.decoder.temperature=0": {"decoder.lenience": 0.1},
    "algorithm=block_diffusion algorithm/decoder=speculative algorithm.decoder.top_k=1": {"decoder.lenience": 0.1},
    f"algorithm=block_diffusion algorithm.block_len={WINDOW + 1}": {"next_token_weight": 3.0},
    "algorithm=diffusion_flow algorithm.flow.weight=0": {f"flow.{key}": value for key, value in FLOW.items()},
    "algorithm=diffusion_flow algorithm.decoder.flow_until=1": {"decoder.flow_step": 0.9},
    "algorithm=diffusion_flow_reference algorithm.flow.weight=0": {
        f"flow.{key}": value
        for key, value in ({"noise_scale": 3.0, "huber_beta": 2.0, "masked_only": False} | FLOW).items()
    },
}


@pytest.mark.parametrize("choices", CASES)
def test_what_is_said_to_make_no_difference_makes_none(choices: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a setting that is called without effect, and has one, or has none and is not called so."""
    monkeypatch.setattr(fitted_levels, "CHANNEL_SAMPLES", 2**12)  # most of what a model of Diffusion Forcing costs
    plain = OmegaConf.to_container(composed([*choices.split(), *SIZES]).algorithm, resolve=True)
    assert isinstance(plain, dict)
    if plain["name"] == "df_lm":
        plain["streams"]["max_window"] = 4
    told, before = unused_settings(_config(plain), "algorithm"), _behaviour(plain)
    for key, value in CASES[choices].items():
        changed = copy.deepcopy(plain)
        *groups, last = key.split(".")
        node = functools.reduce(lambda node, group: node[group], groups, changed)
        assert node[last] != value
        node[last] = value
        assert all(map(torch.equal, _behaviour(changed), before)), key
        assert any(f"algorithm.{key}".startswith(name) for name in told), key


def _config(plain: dict[str, Any]) -> Any:
    return build(look_up(ALGORITHMS, plain["name"], "name").config_class, plain, "algorithm")


def _behaviour(plain: dict[str, Any]) -> list[torch.Tensor]:
    """Two steps of training, the likelihood, and texts."""
    model = look_up(ALGORITHMS, plain["name"], "name")(_config(plain), vocabulary_size=VOCABULARY, seed=0)
    ids = torch.randint(VOCABULARY, (4, WINDOW + 1), generator=torch.Generator().manual_seed(1))
    optimizer = model.configure_optimizers()["optimizer"]
    found = []
    for step in range(2):
        loss = model.loss(ids, torch.Generator().manual_seed(step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    model.eval()
    trained = torch.Generator().manual_seed(2)
    for parameter in model.parameters():  # a fresh head says the same of all tokens
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=trained)
    found.append(model.nll(ids, torch.Generator().manual_seed(3)).detach())
    found.append(model.generate(Request.continuing([[1, 2], [3, 1]], length=10, seeds=[1, 2])).ids)
    return found


TOLD = {  # a command line -> the key that makes no difference, and with what; None: all have an effect
    "algorithm.diffusion.snr_clip=2": ("algorithm.diffusion.snr_clip", "algorithm.mse_weight=0.0"),
    "algorithm.mse_weight=1 algorithm.diffusion.snr_clip=2": None,
    "++algorithm.diffusion.snr_clip=2": None,  # as load= brings it along
    "dataset.vocab_size=300": ("dataset.vocab_size", "dataset.tokenizer=char"),
    "callbacks=none callbacks.line_every_seconds=3": ("callbacks.line_every_seconds", "callbacks.progress=false"),
    "name=mine": ("name", "logger.wandb=null"),
    "logger=wandb name=mine": None,
    "experiment.tasks=[training] experiment.sampling.length=9": (
        *("experiment.sampling.length", "experiment.tasks=[training]"),
    ),
    "experiment.tasks=[sampling] algorithm.optimizer.lr=1": ("algorithm.optimizer.lr", "experiment.tasks=[sampling]"),
    "experiment.tasks=[sampling] experiment.evaluation.batch_size=2": None,  # so many texts are written at once
    "experiment.tasks=[sampling] experiment.evaluation.max_batches=2": (
        *("experiment.evaluation.max_batches", "experiment.tasks=[sampling]"),
    ),
    "algorithm=masked_diffusion experiment.tasks=[training] algorithm.masks_per_count=2": (
        *("algorithm.masks_per_count", "experiment.tasks=[training]"),
    ),
    "experiment=decoding experiment.presets.length=9": ("experiment.presets.length", "experiment.tasks=[sweep]"),
    "experiment=decoding experiment.decoders=[pyramid] algorithm.decoder.temperature=2": (
        *("algorithm.decoder.temperature", "experiment.decoders=[pyramid]"),
    ),
    "experiment=comparison experiment.judges.load=[x] experiment.judges.seeds=[3]": (
        *("experiment.judges.seeds", "experiment.judges.load=[x]"),
    ),
    "experiment=benchmark experiment.training.batch_size=3": None,
    "experiment=decoding experiment.sampling.stop=x": ("experiment.sampling.stop", "experiment.tasks=[sweep]"),
}


@pytest.mark.parametrize("overrides", TOLD)
def test_the_command_line_is_told(overrides: str) -> None:
    """Catches a setting that does nothing without a word, and a note on what nobody set or what has an effect."""
    with composing():
        run = compose_run(overrides.split())
    said = TOLD[overrides]
    assert notes(run) == ([] if said is None else [f"note: {said[0]} makes no difference with {said[1]}"])


def test_options_of_a_sweep_are_told_by_their_setting() -> None:
    """Catches a grid whose settings are all the same."""
    plain: Any = OmegaConf.to_container(composed(["algorithm=masked_diffusion"]).algorithm, resolve=True)
    settings = ModelSettings("masked_diffusion", plain, "top_confidence")
    found = build_settings(settings, [{"two_stage": {"max_stall_steps": [3]}}, {"threshold": {"threshold": 0.7}}], None)
    assert notes_of(found) == [
        "note: max_stall_steps makes no difference with algorithm.decoder.always_confirm=true "
        "(experiment.decoders: two_stage max_stall_steps=3)"
    ]


def test_it_is_said_once_and_before_any_work(smoke: Main) -> None:
    """Catches a note that comes after training, or that ends the run."""
    outcome = smoke("experiment.tasks=[training]", "dataset.vocab_size=300")
    assert outcome.status == 0 and outcome.out.count("dataset.vocab_size makes no difference") == 1
    assert outcome.out.index("vocab_size makes") < outcome.out.index("parameters")


def test_a_setting_of_one_method_is_no_setting_of_a_comparison(main: Main) -> None:
    """Catches a setting that is dropped without a word, as every method has its own."""
    outcome = main("experiment=comparison", "algorithm.mse_weight=1")
    assert outcome.status == 1 and "say 'experiment.methods.NAME.overrides=[algorithm.mse_weight=1]'" in outcome.err
