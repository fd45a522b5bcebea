"""Recorded traces of all four methods, untrained: the text is that of `generate`, and every state adds up."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from algorithms.block_diffusion.block_diffusion import BlockDiffusion, BlockDiffusionConfig
from algorithms.common.backbone import BackboneConfig
from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.speculation import Speculative
from algorithms.diffusion_flow.decoders import FlowTopConfidence
from algorithms.diffusion_flow.diffusion_flow import DiffusionFlow, DiffusionFlowConfig
from algorithms.diffusion_forcing.config import DFLMConfig, DiffusionConfig
from algorithms.diffusion_forcing.decoding.settings import MatrixDecoder
from algorithms.diffusion_forcing.df_lm import DFLM
from algorithms.diffusion_forcing.models import StreamConfig
from algorithms.masked_diffusion.decoding import TopConfidence
from algorithms.masked_diffusion.decoding.two_stage import TwoStage
from algorithms.masked_diffusion.masked_diffusion import MaskedDiffusion, MaskedDiffusionConfig
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from datasets.tokenizers import CharTokenizer
from experiments.analysis.trace import TraceRecord
from experiments.evaluation.measurement import Assignment
from experiments.evaluation.tracing import record_trace
from tests.algorithms.writing import write

BACKBONE = BackboneConfig(n_layer=1, n_head=2, n_embd=16, block_size=12)
TOKENIZER = CharTokenizer("abcdefg\n")
LENGTH = 9
MATRIX = {"sampling_timesteps": 3, "chunk_size": 4}
MEAN = MatrixDecoder(**MATRIX, token_draw="mean")
# Method, decoder, passes of the network for LENGTH tokens. The plain recipe takes a pass for each row in which a level
# falls; the others none for a token that is alone in flight, but the one that reads the token before it.
CASES = {
    "gpt": ("gpt", None, LENGTH),
    "autoregressive": ("df_lm", MatrixDecoder(**MATRIX), LENGTH),
    "chunks_of_one": ("df_lm", MatrixDecoder(**MATRIX | {"chunk_size": 1}), LENGTH),
    "pyramid": ("df_lm", MatrixDecoder(**MATRIX, schedule="pyramid", uncertainty_scale=5), LENGTH),
    "full_sequence": ("df_lm", MatrixDecoder(**MATRIX, schedule="full_sequence"), 2 * 3 + 1),
    "chain": ("df_lm", MatrixDecoder(**MATRIX, schedule="pyramid", token_draw="chain"), None),
    "speculative": ("df_lm", Speculative(), None),
    "shifted": ("df_lm_shifted", MatrixDecoder(**MATRIX, schedule="pyramid"), 2 * (3 + 3) + 1),
    "faithful": ("df_lm_faithful", replace(MEAN, schedule="pyramid"), 2 * (3 + 3) + 3),
    "faithful_together": ("df_lm_faithful", replace(MEAN, schedule="full_sequence"), 3 * 3),
    "faithful_one_by_one": ("df_lm_faithful", replace(MEAN, chunk_size=1), 3 * LENGTH),
    "top_confidence": ("masked_diffusion", TopConfidence(tokens_per_step=2), 3 + 2),
    "two_stage": ("masked_diffusion", TwoStage(draft_threshold=0.0, confirm_threshold=0.5), None),
    "drafted_in_blocks": ("block_diffusion", Speculative(draft_tokens=2), None),
    "flow": ("diffusion_flow", FlowTopConfidence(tokens_per_step=3), 2 + 1),
}
DF_LM = DFLMConfig(BACKBONE, diffusion=DiffusionConfig(beta_schedule="cosine"), streams=StreamConfig(max_window=8))
METHODS = {
    "gpt": (GPT, GPTConfig(BACKBONE)),
    "df_lm": (DFLM, DF_LM),
    "df_lm_shifted": (DFLM, replace(DF_LM, parameterisation="shifted")),
    "df_lm_faithful": (DFLM, replace(DF_LM, parameterisation="faithful", decoder=MEAN)),
    "masked_diffusion": (MaskedDiffusion, MaskedDiffusionConfig(BACKBONE)),
    "diffusion_flow": (DiffusionFlow, DiffusionFlowConfig(BACKBONE)),
    "block_diffusion": (BlockDiffusion, BlockDiffusionConfig(BACKBONE)),
}


@cache
def method_of(case: str) -> BaseAlgorithm:
    cls, config = METHODS[CASES[case][0]]
    return cls(config, vocabulary_size=TOKENIZER.vocabulary_size, seed=0).eval()


def recorded(name: str, prompt: str = "ab", suffix: str = "") -> TraceRecord:
    ids = tuple(TOKENIZER.encode(prompt).tolist()) or (TOKENIZER.start_id,)
    setting = SimpleNamespace(label=f"{name} setting", decoder=CASES[name][1])
    suffix_ids = TOKENIZER.encode(suffix).tolist()
    assignment = Assignment(ids, prompt, LENGTH, n_samples=1)
    return record_trace(method_of(name), TOKENIZER, assignment, setting, method="label", seed=3, suffix_ids=suffix_ids)


@pytest.mark.parametrize("name", CASES)
def test_a_trace_tells_how_the_text_of_generate_came_about(name: str) -> None:
    """Catches a second decoding loop, a text that tracing changes, given tokens that do, a first state in which
    something is decided already, a last one in which something is not, and passes that are not counted as spent."""
    passes: list[int] = []
    (backbone,) = (module for at, module in method_of(name).named_modules() if at.split(".")[-1] == "backbone")
    with backbone.register_forward_hook(lambda *_: passes.append(1)):
        record = recorded(name)
    prompt = torch.from_numpy(TOKENIZER.encode("ab"))[None]
    out = write(method_of(name), prompt, length=LENGTH, seeds=[3], decoder=CASES[name][1])
    assert "".join(record.tokens[-1]) == TOKENIZER.decode(out.ids[0])
    assert (record.method, record.decoder, record.prompt) == ("label", f"{name} setting", "ab")
    assert record.given.tolist() == [True] * 2 + [False] * LENGTH
    assert all(row[:2] == ["a", "b"] for row in record.tokens)
    assert not record.levels[:, record.given].any()
    assert (record.levels[0, ~record.given] == 1).all() and not record.levels[-1].any()
    assert record.forwards[0] == 0 and record.forwards[-1] == out.forwards == len(passes)
    assert (np.diff(record.forwards) >= 0).all()
    assert CASES[name][2] in (out.forwards, None)
    assert LENGTH / record.forwards[-1] == pytest.approx(record.tokens_per_forward)
    assert record.seconds > 0


def test_levels_mean_what_the_scale_says() -> None:
    """Catches noise levels read as drafts, drafts that are lost, and levels of a decoding that falls back."""
    assert recorded("gpt").scale == recorded("flow").scale == "states"
    assert set(recorded("top_confidence").levels.flat) == {0, 1}
    drafts = recorded("two_stage")
    assert drafts.scale == "states" and set(drafts.levels.flat) == {0, 0.5, 1}
    noise = recorded("pyramid")
    assert noise.scale == "noise" and set(noise.levels.flat) == {0, 0.333333, 0.666667, 1}
    assert (np.diff(noise.levels, axis=0) <= 0).all()


def test_putting_noise_where_a_chunk_begins_costs_no_pass() -> None:
    """Catches a state of Diffusion Forcing counted as a pass that is none, and one that changes nothing not counted."""
    assert recorded("faithful_together").forwards.tolist() == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9]
    assert recorded("faithful_one_by_one").forwards.tolist() == [
        3 * chunk + run for chunk in range(LENGTH) for run in range(4)
    ]
    assert recorded("full_sequence").forwards.tolist() == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 7, 7]
    assert recorded("chunks_of_one").forwards.tolist() == [
        chunk + min(run, 1) for chunk in range(LENGTH) for run in range(4)
    ]


def test_text_on_both_sides_is_given() -> None:
    """Catches a suffix that is generated over, or one dropped where the method cannot see it."""
    for name in ("top_confidence", "full_sequence", "pyramid"):
        record = recorded(name, suffix="gfe")
        assert record.given.tolist() == [True] * 2 + [False] * LENGTH + [True] * 3
        assert all(row[-3:] == ["g", "f", "e"] for row in record.tokens) and not record.levels[:, -3:].any()
    for name in ("gpt", "shifted", "faithful", "speculative", "drafted_in_blocks"):
        with pytest.raises(ValueError, match=r"suffix cannot be seen by the decoder .*: leave it empty"):
            recorded(name, suffix="gfe")


def test_a_start_token_is_no_text() -> None:
    """Catches an animation that opens with a line break nobody asked for."""
    record = recorded("gpt", prompt="")
    assert record.levels.shape == (LENGTH + 1, LENGTH) and not record.given.any() and record.prompt == ""
