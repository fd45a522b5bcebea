"""Draft and confirm: the original's decodings, and what the default adds."""

import pytest
import torch
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from algorithms.masked_diffusion.decoding import DONE, DRAFT, MASKED, ChunkState, Prediction, Threshold, TwoStage
from experiments.run.build import build

NAMES = {
    "draft_threshold": "draft_threshold",
    "confirm_threshold": "confirm_threshold",
    "replace_margin": "replace_margin",
    "max_draft_age": "max_draft_age",
    "min_draft_conf_for_finalize": "min_draft_confidence",
    "max_stall_iters": "max_stall_steps",
    "max_block_steps": "max_block_steps",
    "target_chunk_len": "chunk_len",
    "prompt_len": "context_len",
    "temp": "temperature",
    "top_k": "top_k",
}
CASES = 18
shares = st.floats(0, 1)


@pytest.mark.parametrize("case", range(CASES))
def test_decodings_match_the_original(golden, case):
    """Catches any other order of a step's parts, and guards that fire early, late or with other tokens."""
    meta = golden.cases[case]
    options = {ours: meta[theirs] for theirs, ours in NAMES.items() if theirs in meta}
    found = golden.decode(case, TwoStage(confidence="top_k_mass", always_confirm=False, **options))
    assert torch.equal(found.ids[0], golden.ids(case, "tokens"))
    assert found.steps == meta["total_steps"]


@examples(st.integers(0, 10**6), shares, st.sampled_from(["probability", "margin"]), st.booleans())
@settings(max_examples=40)
def test_equal_thresholds_are_the_single_threshold(table, seed, threshold, confidence, sampled):
    """Catches drafts that should not arise, and a forced confirmation of another position or token."""
    common = {"confidence": confidence, "chunk_len": 6, "temperature": float(sampled)}
    two_stage = TwoStage(draft_threshold=threshold, confirm_threshold=threshold, replace_margin=1.0, **common)
    ids = torch.zeros(3, 12, dtype=torch.long)
    found, expected = (
        table.random(5, 9, seed).decode(ids, torch.zeros_like(ids, dtype=torch.bool), decoder, [1, 2, seed])
        for decoder in (two_stage, Threshold(threshold=threshold, **common))
    )
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.row_forwards, expected.row_forwards)


@examples(st.integers(0, 10**6), shares, shares, st.floats(0, 0.3), st.integers(0, 3))
@settings(max_examples=60)
def test_never_more_steps_than_tokens(table, seed, a, b, margin, age):
    """Catches steps that confirm nothing, above all drafts that are masked again and again."""
    decoder = TwoStage(
        draft_threshold=min(a, b), confirm_threshold=max(a, b), replace_margin=margin, max_draft_age=age, chunk_len=7
    )
    ids = torch.zeros(3, 14, dtype=torch.long)
    found = table.random(6, 9, seed, scale=1.0).decode(
        ids, torch.zeros_like(ids, dtype=torch.bool), decoder, [seed, 1, 2]
    )
    assert found.row_forwards.max() <= 14


def one_step(decoder, status, confidences, stored):
    """One commit with hand-made confidences of two tokens; drafts are of token 1, the new draw is 0, the mask 2."""
    status = torch.tensor([status], dtype=torch.int8)
    best = torch.tensor([confidences], dtype=torch.float64)
    tokens = torch.where(status == MASKED, 2, 1)
    state = ChunkState(tokens, status, rows=torch.tensor([0]), mask_id=2, window=9)
    state.memory.update(decoder.begin(state, torch.zeros_like(best)))
    state.memory["stored"] = torch.tensor([stored], dtype=torch.float64)
    return decoder.commit(state, Prediction(torch.stack([best, 1 - best], -1), torch.zeros_like(tokens)))


def test_one_step_by_hand():
    """Catches a draft that is rewritten within the margin, or confirmed with its old token."""
    after = one_step(
        TwoStage(draft_threshold=0.6, confirm_threshold=0.9, replace_margin=0.05),
        [MASKED, MASKED, MASKED, DRAFT, DRAFT, DRAFT, DONE],
        [0.95, 0.7, 0.55, 0.8, 0.8, 0.9, 0.99],
        [0.0, 0.0, 0.0, 0.7, 0.76, 0.65, 0.0],
    )
    assert after.status[0].tolist() == [DONE, DRAFT, MASKED, DRAFT, DRAFT, DONE, DONE]
    assert after.tokens[0].tolist() == [0, 0, 2, 0, 1, 0, 1]
    assert after.memory["stored"][0, [1, 3, 4]].tolist() == [0.7, 0.8, 0.76]


def test_a_step_that_would_confirm_nothing():
    """Catches a default that leaves such a step without a decision, and a reference setting that forces one."""
    case = [MASKED, MASKED, DRAFT], [0.7, 0.5, 0.6], [0.0, 0.0, 0.6]
    thresholds = {"draft_threshold": 0.6, "confirm_threshold": 0.9}
    assert one_step(TwoStage(**thresholds), *case).status[0].tolist() == [DONE, MASKED, DRAFT]
    after = one_step(TwoStage(**thresholds, always_confirm=False), *case)
    assert after.status[0].tolist() == [DRAFT, MASKED, DRAFT]


def test_what_the_original_does_when_nothing_changes():
    """Catches a fallback that drafts, confirms or drops other positions, or forgets how sure a draft was."""
    decoder = TwoStage(draft_threshold=0.9, confirm_threshold=0.9, min_draft_confidence=0.5, always_confirm=False)
    drafted = one_step(decoder, [MASKED, MASKED, DRAFT], [0.55, 0.6, 0.7], [0.0, 0.0, 0.3])
    assert drafted.status[0].tolist() == [MASKED, DRAFT, DRAFT]
    assert drafted.memory["stored"][0].tolist() == [0.0, 0.6, 0.3]
    confirmed = one_step(decoder, [DRAFT, DRAFT, DRAFT], [0.6, 0.6, 0.6], [0.4, 0.5, 0.8])
    assert (confirmed.status[0].tolist(), confirmed.tokens[0].tolist()) == ([DRAFT, DONE, DONE], [1, 1, 1])
    dropped = one_step(decoder, [DRAFT, DRAFT, DONE], [0.6, 0.6, 0.6], [0.4, 0.3, 0.0])
    assert (dropped.status[0].tolist(), dropped.tokens[0].tolist()) == ([DRAFT, MASKED, DONE], [1, 2, 1])


def test_a_draft_ages_by_one_each_step():
    """Catches a draft that outlives its age, or one written in this step that is masked at once."""
    decoder = TwoStage(draft_threshold=0.6, confirm_threshold=0.9, max_draft_age=1)
    after = one_step(decoder, [DRAFT, DRAFT, MASKED, MASKED], [0.65, 0.8, 0.7, 0.9], [0.7, 0.7, 0.0, 0.0])
    assert after.status[0].tolist() == [MASKED, DRAFT, DRAFT, DONE]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draft_threshold": 0.95}, "draft_threshold is 0.95, above confirm_threshold"),
        ({"confirm_threshold": 1.5}, r"confirm_threshold is 1.5: it must lie in \[0, 1\]"),
        ({"draft_threshold": -0.1}, "draft_threshold is -0.1"),
        ({"confidence": "entropy"}, "at most 0"),
        ({"replace_margin": -0.1}, "replace_margin is -0.1"),
        ({"max_draft_age": -1}, "max_draft_age is -1"),
        ({"min_draft_confidence": 2.0}, "min_draft_confidence is 2.0"),
        ({"max_stall_steps": 0}, "max_stall_steps is 0"),
        ({"max_block_steps": 0}, "max_block_steps is 0"),
    ],
)
def test_bad_settings_are_named(options, words):
    """Catches settings out of range that would pass in silence."""
    with pytest.raises(ValueError, match=words):
        build(TwoStage, options, "algorithm.decoder")
