"""The decoding loop and its commit rules: the original's decodings, invariants of every rule, slow twins of each."""

import itertools
import typing
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from algorithms.common.decoder import Request
from algorithms.common.randomness import RowRandom
from algorithms.common.sampling import sample_tokens
from algorithms.masked_diffusion.decoding import (
    DONE,
    DRAFT,
    MASKED,
    Ancestral,
    AnyDecoder,
    ChunkState,
    EntropyBound,
    Prediction,
    Remasking,
    Threshold,
    TopConfidence,
    TwoStage,
    loop,
)
from algorithms.masked_diffusion.masked_diffusion import MaskedDiffusionConfig
from experiments.run.build import build
from tests.algorithms.masked_diffusion.conftest import recorder_of
from tests.algorithms.writing import fill

RULES = {
    "first hitting": Ancestral(),
    "ancestral": Ancestral(steps=3),
    "top confidence": TopConfidence(tokens_per_step=2, confidence="margin"),
    "threshold": Threshold(threshold=0.7, top_k=3, confidence="top_k_mass"),
    "falling threshold": Threshold(threshold=0.8, relax=0.5, floor=0.3),
    "entropy threshold": Threshold(threshold=-0.5, confidence="entropy"),
    "entropy bound": EntropyBound(budget=0.5),
    "remasking": Remasking(steps=6, eta=0.5),
    "remasking at once": Remasking(steps=1, eta=1.0),
    "two-stage": TwoStage(draft_threshold=0.4, confirm_threshold=0.8),
    "two-stage of the original": TwoStage(draft_threshold=0.4, confirm_threshold=0.8, always_confirm=False),
    "greedy": TopConfidence(temperature=0.0),
}
V, WINDOW, CHUNK = 5, 9, 4
MODEL = SimpleNamespace(vocabulary_size=V, mask_id=V, window=WINDOW)  # what a check asks of a model
rules = st.sampled_from(sorted(RULES))
seeds = st.integers(0, 10**6)
masks = st.lists(st.lists(st.booleans(), min_size=14, max_size=14), min_size=3, max_size=3)


def tables(table, seed):
    return table.random(V, WINDOW, seed)


def texts(seed, rows=3, length=14):
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))


def state_of(confidence_rows, *, status=None, window=8):
    """A chunk state as wide as the given rows, all masked unless `status` says otherwise."""
    status = torch.zeros_like(confidence_rows, dtype=torch.int8) if status is None else status
    tokens = torch.where(status == MASKED, V, 0)
    return ChunkState(tokens, status, rows=torch.arange(len(tokens)), mask_id=V, window=window)


def random_prediction(seed, rows=2, length=8, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, length, V, generator=generator, dtype=torch.float64)
    return Prediction(logits.softmax(-1), torch.randint(V, (rows, length), generator=generator))


@pytest.mark.parametrize("case", range(18, 27))
def test_falling_thresholds_match_the_original(golden, case):
    """Catches a bar that falls with another share, another floor, and candidates in another order."""
    meta = golden.cases[case]
    decoder = Threshold(
        threshold=meta["confidence_threshold"],
        relax=0.25,
        floor=0.6,
        confidence="top_k_mass",
        top_k=meta["top_k"],
        temperature=meta["temp"],
        chunk_len=meta["block_size"] - meta["prompt_len"],
    )
    found = golden.decode(case, decoder)
    assert torch.equal(found.ids[0], golden.ids(case, "tokens"))
    assert found.steps == meta["total_steps"]


def budget(decoder, tokens):
    """The most forwards that a chunk of so many open tokens may take."""
    if isinstance(decoder, Remasking):
        return decoder.steps if tokens else 0
    if isinstance(decoder, Ancestral) and decoder.steps:
        return min(tokens, decoder.steps)
    if isinstance(decoder, TopConfidence):
        return -(-tokens // decoder.tokens_per_step)
    if isinstance(decoder, TwoStage) and not decoder.always_confirm:
        return 14 * tokens  # each is drafted, rewritten with 0.05 more confidence each time, and confirmed
    return tokens


@examples(rules, masks, seeds, st.sampled_from([None, CHUNK, WINDOW]))
@settings(max_examples=100)
def test_every_rule_fills_any_gaps_within_its_budget(table, rule, mask, seed, chunk_len):
    """Catches given tokens that change, positions left masked, chunks skipped or done twice, and wasted forwards."""
    decoder = with_chunks(RULES[rule], chunk_len)
    ids, given = texts(seed), torch.tensor(mask)
    network = tables(table, seed)
    found = network.decode(ids.masked_fill(~given, V), given, decoder, [seed, 1, 2])
    assert torch.equal(found.ids[given], ids[given])
    assert (found.ids < V).all()
    assert found.decided == int((~given).sum())
    K = decoder.spans(WINDOW)[0]
    limits = [sum(budget(decoder, int((~row[i : i + K]).sum())) for i in range(0, 14, K)) for row in given]
    assert (found.row_forwards <= torch.tensor(limits)).all()
    assert found.forwards == found.steps == len(network.seen)
    assert int(found.row_forwards.sum()) == sum(len(x) for x, _ in network.seen)  # no row is run for nothing


def with_chunks(decoder, chunk_len):
    return replace(decoder, chunk_len=chunk_len)


@examples(rules, masks, seeds)
@settings(max_examples=50)
def test_a_row_decodes_alone_as_in_a_batch(table, rule, mask, seed):
    """Catches draws shared between rows, and rows that are confused when one of them leaves the batch."""
    ids, given = texts(seed), torch.tensor(mask)
    given[1, :5] = True
    network, numbers = tables(table, seed), [seed, 5, 6]
    decoder = with_chunks(RULES[rule], CHUNK)
    whole = network.decode(ids, given, decoder, numbers)
    for row in range(3):
        alone = network.decode(ids[row : row + 1], given[row : row + 1], decoder, [numbers[row]])
        assert torch.equal(alone.ids[0], whole.ids[row])
        assert alone.row_forwards[0] == whole.row_forwards[row]
        assert alone.steps == alone.row_forwards[0]


def test_rows_stay_apart_over_many_steps(table):
    """Catches numbers drawn for several steps at once that go to another row, or are used twice."""
    network = table.random(V, 40, 3, scale=0.3)
    ids = torch.zeros(3, 40, dtype=torch.long)
    given = torch.zeros_like(ids, dtype=torch.bool)
    given[0, ::2], given[1, :30] = True, True
    for decoder in (Ancestral(chunk_len=40), Remasking(steps=40, chunk_len=40)):
        whole = network.decode(ids, given, decoder, [4, 5, 6])
        for row in range(3):
            alone = network.decode(ids[row : row + 1], given[row : row + 1], decoder, [4 + row])
            assert torch.equal(alone.ids[0], whole.ids[row])


def one_alone(network, decoder, ids, given, seed):
    """The slow twin of the loop, for a row: all of a chunk is looked at and drawn in every step, and whether anything
    is open is asked after it. Returns the text (1, L), and how much each step of each chunk left open."""
    random, counts = RowRandom([seed]), []
    text = ids.masked_fill(~given, V)
    K, context_len = decoder.spans(WINDOW)
    for begin in range(0, ids.size(1), K):
        chunk = slice(begin, min(begin + K, ids.size(1)))
        if bool(given[:, chunk].all()):
            continue
        state = ChunkState.start(text[:, chunk], given[:, chunk], mask_id=V, window=WINDOW)
        once, left = random.uniform(state.tokens.size(1)), []
        state.memory.update(decoder.begin(state, once))
        while bool(state.open.any()):
            if len(left) % 16 == 0:
                block = random.uniform(16, 1 + decoder.position_draws, state.tokens.size(1))
            text[:, chunk] = state.tokens
            start = max(0, begin - context_len)
            x = torch.nn.functional.pad(text, (0, WINDOW), value=V)[:, start : start + WINDOW]
            logits = decoder.tempered(network(x, slice(begin - start, chunk.stop - start), state))
            first, *own = block[:, len(left) % 16].unbind(1)
            drawn = Prediction.draw(logits, first, decoder.top_k, top_p=decoder.top_p, greedy=decoder.temperature == 0)
            state = decoder.commit(state, Prediction(drawn.probabilities, drawn.tokens, drawn.ranked), *own)
            left.append(int(state.open.sum()))
        text[:, chunk] = state.tokens
        plan = decoder.plan(~given[:, chunk], once)
        assert plan is None or (plan[0, : len(left)].tolist() == left and not plan[0, len(left) :].any())
        counts.append(left)
    return text, counts


@examples(rules, masks, seeds, st.sampled_from([None, CHUNK, WINDOW]), st.sampled_from([2, loop.NARROWED]))
@settings(max_examples=100)
def test_the_loop_is_its_slow_twin(table, rule, mask, seed, chunk_len, narrowed):
    """Catches a plan that does not come true, an order that is another, and positions left out that still count."""
    decoder, network = with_chunks(RULES[rule], chunk_len), tables(table, seed)
    ids, given = texts(seed), torch.tensor(mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "NARROWED", narrowed)
        found = network.decode(ids, given, decoder, [seed, 5, 6])
    for row, number in enumerate([seed, 5, 6]):
        text, counts = one_alone(network, decoder, ids[row : row + 1], given[row : row + 1], number)
        assert torch.equal(found.ids[row], text[0])
        assert found.row_forwards[row] == sum(map(len, counts))


def test_a_predictor_draws_before_the_steps_do(table):
    """Catches numbers of a row in another order, and with them another text for each seed."""
    random, seen = RowRandom([3]), []

    def predict(x, chunk, state):
        if not seen:
            seen.append(random.normal(20, rows=state.rows.tolist()))
        return torch.zeros(1, 8, V)

    ids = torch.zeros(1, 8, dtype=torch.long)
    fill(Ancestral(chunk_len=8), predict, ids, ids > 0, random=random, mask_id=V, window=8)
    generator = torch.Generator().manual_seed(3)
    torch.rand(8, generator=generator, dtype=torch.float64)
    assert torch.equal(seen[0][0], torch.randn(20, generator=generator))


def test_every_step_draws_anew(table):
    """Catches a block of uniforms that is handed out twice."""
    seen = []

    class Spy(Remasking):
        def commit(self, state, prediction, uniform=None):
            seen.append(uniform)
            return super().commit(state, prediction, uniform)

    ids = torch.zeros(2, 4, dtype=torch.long)
    tables(table, 0).decode(ids, torch.zeros_like(ids, dtype=torch.bool), Spy(steps=40, eta=0.5), [0, 1])
    assert len(seen) == 40
    assert torch.cat(seen).unique().numel() == 40 * 2 * 4


def test_the_windows_that_the_network_sees(table):
    """Catches a window that is short or shifted, a future that shows, and context or given tokens that do not."""
    network = tables(table, 0)
    ids = texts(0, rows=1, length=13)
    given = torch.zeros_like(ids, dtype=torch.bool)
    given[0, :3] = given[0, 9] = True
    decoder = TopConfidence(tokens_per_step=9, chunk_len=4, context_len=2)
    out = network.decode(ids, given, decoder, [0], first=3).ids[0]
    (first, a), (second, b), (third, c) = network.seen
    m = V
    assert first.tolist() == [[ids[0, 1], ids[0, 2], m, m, m, m, m, m, ids[0, 9]]]
    assert second.tolist() == [[out[5], out[6], m, m, ids[0, 9], m, m, m, m]]
    assert third.tolist() == [[out[9], out[10], m, m, m, m, m, m, m]]
    assert (a, b, c) == (slice(2, 6), slice(2, 6), slice(2, 4))


def test_a_predictor_has_memory_that_follows_its_rows():
    """Catches memory that is lost between steps, or of another row once one has left the batch."""
    ids = torch.zeros(3, 8, dtype=torch.long)
    given = torch.zeros_like(ids, dtype=torch.bool)
    given[0, :4], given[1, :6] = True, True
    checked = []

    def predict(x, chunk, state):
        if "mine" in state.memory:
            assert torch.equal(state.memory["mine"][:, 0], state.rows)
            checked.append(len(state.rows))
        state.memory["mine"] = state.rows[:, None]
        return torch.zeros(len(x), 8, V)

    decoder = TwoStage(chunk_len=8, draft_threshold=0.9, confirm_threshold=0.9)
    fill(decoder, predict, ids, given, random=RowRandom([0, 1, 2]), mask_id=V, window=8)
    assert checked == [3, 2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("rule", RULES)
def test_a_trace_tells_the_whole_story(table, rule):
    """Catches steps that are missing, passes miscounted where a chunk begins, mask ids among its tokens, given tokens
    shown as new, and an end that is not the text."""
    ids = texts(3)
    given = torch.zeros_like(ids, dtype=torch.bool)
    given[:, :2] = given[1, 2:8] = True
    network, decoder = tables(table, 3), with_chunks(RULES[rule], CHUNK)
    found = network.decode(ids, given, decoder, [1, 2, 3], trace=True)
    assert found.trace.forwards.tolist() == list(range(1, len(network.seen) + 1))
    plain = network.decode(ids, given, decoder, [1, 2, 3])
    trace = found.trace
    assert torch.equal(found.ids, plain.ids) and plain.trace is None
    assert trace.tokens.shape == trace.levels.shape == (found.steps, 3, 14)
    assert torch.equal(trace.tokens[-1], found.ids)
    assert (trace.tokens < V).all()
    assert (trace.levels[-1] == 0).all() and (trace.levels[:, given] == 0).all()
    assert torch.equal(trace.tokens[:, given], ids[given].expand(found.steps, -1))
    assert set(trace.levels.unique().tolist()) <= {0.0, 0.5, 1.0}
    done = trace.levels == 0
    assert (done[1:] >= done[:-1]).all()  # decided for good
    same = trace.tokens[1:] == trace.tokens[:-1]
    assert same[done[:-1]].all()
    assert (trace.levels == 0.5).any() == ("two-stage" in rule or rule == "remasking")


def test_nothing_to_decide():
    """Catches a crash, or a forward, where every token is given."""
    ids = torch.zeros(2, 4, dtype=torch.long)
    found = fill(
        Ancestral(),
        lambda *_: pytest.fail("the network is not needed"),
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        random=RowRandom([0, 1]),
        mask_id=V,
        window=4,
        recorder=recorder_of(ids),
    )
    assert torch.equal(found.ids, ids)
    assert (found.steps, found.decided, found.tokens_per_forward, len(found.trace.tokens)) == (0, 0, 0.0, 0)
    assert found.trace.forwards.tolist() == []


def test_chunk_and_context_share_the_window():
    """Catches a default that does not fit beside what is set."""
    for options, expected in (
        ({}, (4, 5)),
        ({"chunk_len": 7}, (7, 2)),
        ({"context_len": 2}, (4, 2)),
        ({"context_len": 8}, (1, 8)),
        ({"chunk_len": 3, "context_len": 3}, (3, 3)),
    ):
        decoder = TopConfidence(**options)
        assert decoder.spans(WINDOW) == expected
        decoder.check(MODEL, Request.continuing([[0]], length=2, seeds=[0]))
    assert Ancestral().spans(1) == (1, 0)


@examples(
    st.floats(0, 1), st.floats(0, 1), st.sampled_from(["probability", "margin", "entropy"]), st.floats(0, 1), seeds
)
def test_a_higher_threshold_never_decides_more(a, b, confidence, relax, seed):
    """Catches a comparison the wrong way round, and a step that decides nothing."""
    low, high = sorted([a, b])
    shift = 1.0 if confidence == "entropy" else 0.0
    prediction = random_prediction(seed)
    status = torch.zeros(2, 8, dtype=torch.int8)
    status[0, :3] = DONE
    before = state_of(status, status=status)
    strict, lax = (
        Threshold(threshold=t - shift, confidence=confidence, relax=relax).commit(before, prediction)
        for t in (high, low)
    )
    assert (strict.open >= lax.open).all()
    assert (strict.open.sum(-1) < before.open.sum(-1)).all()


def test_the_bar_falls_to_its_floor():
    """Catches a share of the chunk instead of the window, drafts that count as masked, a floor that is a ceiling."""
    status = torch.tensor([[MASKED] * 4, [DONE, DRAFT] + [MASKED] * 2], dtype=torch.int8)
    state = state_of(status, status=status, window=8)  # shares masked: 4/8, 2/8
    bars = Threshold(threshold=0.9, relax=0.4).bar(state)
    torch.testing.assert_close(bars, torch.tensor([[0.7], [0.6]], dtype=torch.float64))
    assert Threshold(threshold=0.9, relax=0.4, floor=0.65).bar(state)[1] == 0.65
    assert Threshold(threshold=0.5, floor=0.6).bar(state) == 0.6


def test_a_confidence_at_the_threshold_is_enough():
    """Catches a bar that has to be exceeded."""
    prediction = Prediction(torch.tensor([[[0.75, 0.25], [0.5, 0.5], [0.875, 0.125]]]), torch.zeros(1, 3).long())
    after = Threshold(threshold=0.75).commit(state_of(torch.zeros(1, 3)), prediction)
    assert after.open[0].tolist() == [False, True, False]


@examples(seeds, st.floats(0, 4))
def test_entropy_bound_is_the_longest_prefix(seed, limit):
    """Catches a sum with the largest entropy in it, an order that is not rising, and an empty step: a loop agrees."""
    prediction = random_prediction(seed, rows=1)
    status = torch.zeros(1, 8, dtype=torch.int8)
    status[0, 2] = DONE
    after = EntropyBound(budget=limit).commit(state_of(status, status=status), prediction)
    p = prediction.probabilities[0]
    entropies = sorted((float(-(p[i] * p[i].log()).sum()), i) for i in range(8) if i != 2)
    chosen, spent = {2}, 0.0
    for entropy, position in entropies:
        if spent > limit:
            break
        chosen.add(position)
        spent += entropy
    assert set((after.status[0] == DONE).nonzero().squeeze(-1).tolist()) == chosen


def test_unmasking_times_are_uniform():
    """Catches an order that is not random, and grid cells that are not equal: two positions share half of S = 2."""
    rows = 6000
    uniform = torch.rand(rows, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prediction = Prediction(torch.full((rows, 3, 1), 1.0), torch.zeros(rows, 3, dtype=torch.long))
    for steps, distribution in ((None, {1: 1.0}), (2, {1: 3 / 8, 2: 3 / 8, 3: 2 / 8}), (1, {3: 1.0})):
        decoder, state = Ancestral(steps=steps), state_of(uniform)
        state.memory.update(decoder.begin(state, uniform))
        after = decoder.commit(state, prediction)
        decided = (~after.open).sum(-1)
        for count, share in distribution.items():
            assert abs(float((decided == count).double().mean()) - share) < 0.03
        first = (~after.open).double().mean(0)
        assert (first - first.mean()).abs().max() < 0.03


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_remasking_keeps_the_share_masked(eta):
    """Catches a wrong formula of either probability: after step i of S, 1 - i/S of all positions are masked."""
    decoder, S = Remasking(steps=5, eta=eta), 5
    generator = torch.Generator().manual_seed(1)
    rows = torch.zeros(20_000, 2)
    prediction = Prediction(torch.full((*rows.shape, 1), 1.0), torch.zeros_like(rows, dtype=torch.long))
    state, again = state_of(rows), 0
    state.memory.update(decoder.begin(state, torch.zeros_like(rows, dtype=torch.float64)))
    for step in range(1, S + 1):
        uniform = torch.rand(rows.shape, generator=generator, dtype=torch.float64)
        following = decoder.commit(state, prediction, uniform)
        again += int(((state.status != MASKED) & (following.status == MASKED)).sum())
        assert torch.equal(following.tokens == V, following.status == MASKED)
        state = following
        assert abs(float((state.status == MASKED).double().mean()) - (1 - step / S)) < 0.01
    assert not state.open.any()
    assert (again > 0) == (eta > 0)


def draw(decoder, logits, uniform):
    """What the loop makes of logits and uniforms."""
    return Prediction.draw(decoder.tempered(logits), uniform, decoder.top_k, greedy=decoder.temperature == 0)


@examples(seeds, st.floats(0.2, 2.0))
def test_a_draw_is_the_common_one(seed, temperature):
    """Catches another distribution than that of the other methods: without top_k it is `sample_tokens`, draw by
    draw."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 4, V, generator=generator)
    uniform = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    decoder = TopConfidence(temperature=temperature)
    drawn = draw(decoder, logits, uniform)
    assert torch.equal(drawn.tokens, sample_tokens(logits, uniform, temperature=temperature))
    torch.testing.assert_close(drawn.probabilities, (logits.double() / temperature).softmax(-1))


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.7}, {"top_k": 4, "top_p": 0.5}, {"greedy": True}])
def test_tokens_of_some_positions_are_those_of_all(options):
    """Catches a draw at the wanted positions with the uniforms or the probabilities of others."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 40, V, generator=generator, dtype=torch.float64)
    uniform = torch.rand(3, 40, generator=generator, dtype=torch.float64)
    index = torch.randint(40, (3, 7), generator=generator)
    settings = {"top_k": None, "greedy": False} | options
    every, some = (Prediction.draw(logits, uniform, **settings) for _ in range(2))
    assert torch.equal(every.tokens.gather(1, index), some.tokens_at(index))


@pytest.mark.parametrize("count", [1, 3])
def test_of_equally_confident_positions_the_first_are_decided(count):
    """Catches an order among equals that hangs on what is beside them: a decoder and its likelihood would part."""
    prediction = Prediction(torch.full((1, 9, 2), 0.5), torch.zeros(1, 9, dtype=torch.long))
    status = torch.tensor([[MASKED, DONE, MASKED, MASKED, DONE, MASKED, MASKED, MASKED, MASKED]], dtype=torch.int8)
    after = TopConfidence(tokens_per_step=count).commit(state_of(status, status=status), prediction)
    assert after.open[0].nonzero().squeeze(-1).tolist() == [0, 2, 3, 5, 6, 7, 8][count:]


def test_candidates_are_drawn_from_the_best_on():
    """Catches candidates in the order of their ids, a mass that is not theirs, and a draw outside of them."""
    logits = torch.tensor([0.1, 0.2, 0.4, 0.3, 1e-9], dtype=torch.float64).log().expand(1, 20_000, 5)
    uniform = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniform[0, 0] = 0.0
    decoder = Threshold(top_k=3, confidence="top_k_mass")
    drawn = draw(decoder, logits, uniform)
    assert drawn.tokens[0, 0] == 2
    shares = torch.bincount(drawn.tokens[0], minlength=5) / 20_000
    assert (shares - torch.tensor([0, 2 / 9, 4 / 9, 3 / 9, 0])).abs().max() < 0.015
    assert drawn.confidence("top_k_mass")[0, 0].item() == pytest.approx(0.9)
    known = Prediction.of(logits[:, :1], drawn.tokens[:, :1], decoder.top_k)
    assert known.confidence("top_k_mass").item() == pytest.approx(0.9)


def test_no_draw_is_impossible():
    """Catches a token of probability 0 that uniform 0 takes."""
    logits = torch.tensor([[[-torch.inf, 0.0, 1.0]]])
    for top_k in (None, 3):
        decoder = TopConfidence(top_k=top_k)
        drawn = draw(decoder, logits, torch.zeros(1, 1, dtype=torch.float64))
        assert drawn.tokens.item() == (1 if top_k is None else 2)


def test_temperature_zero_is_greedy():
    """Catches a division by zero, and confidences that are all 1."""
    logits, uniform = torch.tensor([[[0.0, 2.0, 1.0]]]), torch.tensor([[0.999]], dtype=torch.float64)
    for top_k in (None, 2):
        decoder = TopConfidence(temperature=0.0, top_k=top_k)
        drawn = draw(decoder, logits, uniform)
        assert drawn.tokens.item() == 1
        assert drawn.confidence("probability").item() == pytest.approx(logits[0, 0].softmax(-1)[1].item())


def test_confidences_by_hand():
    """Catches a measure that is another, or that is larger where the network is less sure."""
    prediction = Prediction(torch.tensor([[[0.5, 0.3, 0.2, 0.0]]], dtype=torch.float64), torch.zeros(1, 1).long())
    entropy = -sum(p * torch.tensor(p).log().item() for p in (0.5, 0.3, 0.2))
    for measure, value in (("probability", 0.5), ("margin", 0.2), ("entropy", -entropy)):
        assert prediction.confidence(measure).item() == pytest.approx(value)


@pytest.mark.parametrize("rule", [name for name, decoder in RULES.items() if decoder.order_follows_text])
def test_the_order_of_these_rules_follows_from_the_text(rule):
    """Catches a rule whose likelihood is claimed though what it decides depends on the draw."""
    prediction = random_prediction(0)
    if RULES[rule].top_k:
        prediction = Prediction.of(prediction.probabilities.log(), prediction.tokens, RULES[rule].top_k)
    other = Prediction(prediction.probabilities, (prediction.tokens + 1) % V, prediction.ranked)
    before = state_of(torch.zeros(2, 8))
    assert torch.equal(*(RULES[rule].commit(before, p).status for p in (prediction, other)))


def test_which_decoders_have_a_likelihood():
    """Catches a likelihood of truncated or greedy draws, or of a random order, computed from full conditionals."""
    assert TopConfidence().has_likelihood and Threshold(temperature=0.5).has_likelihood
    for decoder in (TopConfidence(top_k=2), Threshold(temperature=0.0), Ancestral(), Remasking(), TwoStage()):
        assert not decoder.has_likelihood


def test_rules_are_found_by_their_names():
    """Catches a rule that a config cannot name, and two that it cannot tell apart."""
    rules = typing.get_args(AnyDecoder)
    assert {type(rule) for rule in RULES.values()} == set(rules)
    for rule, other in itertools.permutations(rules, 2):
        with pytest.raises(ValueError, match=f"name is '{other.name}': choose one of {rule.name}|did you mean"):
            build(rule, {"name": other.name}, "algorithm.decoder")
        assert type(build(MaskedDiffusionConfig, {"decoder": {"name": rule.name}}, "algorithm").decoder) is rule


@pytest.mark.parametrize(
    ("rule", "options", "words"),
    [
        (Threshold, {"threshold": 1.2}, r"threshold is 1.2: it must lie in \[0, 1\]"),
        (Threshold, {"threshold": float("nan")}, "threshold is nan"),
        (Threshold, {"floor": -0.1}, "floor is -0.1"),
        (Threshold, {"relax": -1.0}, "relax is -1.0"),
        (Threshold, {"threshold": 0.5, "confidence": "entropy"}, "at most 0"),
        (Threshold, {"confidence": "top_k_mass"}, "confidence=top_k_mass needs top_k: set it"),
        (Threshold, {"confidence": "mood"}, "confidence is 'mood': choose one of probability"),
        (TopConfidence, {"tokens_per_step": 0}, "tokens_per_step is 0"),
        (TopConfidence, {"chunk_len": 0}, "chunk_len is 0"),
        (TopConfidence, {"context_len": -1}, "context_len is -1"),
        (TopConfidence, {"temperature": -1.0}, "temperature is -1.0"),
        (TopConfidence, {"temperature": float("nan")}, "temperature is nan"),
        (TopConfidence, {"top_k": 0}, "top_k is 0"),
        (TopConfidence, {"top_p": 0.0}, "top_p is 0.0"),
        (TopConfidence, {"top_p": float("nan")}, "top_p is nan"),
        (Ancestral, {"steps": 0}, "steps is 0"),
        (Remasking, {"steps": 0}, "steps is 0"),
        (Remasking, {"eta": 1.1}, "eta is 1.1"),
        (EntropyBound, {"budget": -0.1}, "budget is -0.1"),
    ],
)
def test_bad_settings_are_named(rule, options, words):
    """Catches settings out of range that would pass in silence."""
    with pytest.raises(ValueError, match=words):
        build(rule, options, "algorithm.decoder")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 6}, "top_k is 6, above the vocabulary of 5"),
        ({"chunk_len": 10}, "chunk_len is 10: the window holds 9"),
        ({"chunk_len": 5, "context_len": 5}, "has room for 4"),
        ({"context_len": 9}, "has room for 8"),
    ],
)
def test_settings_that_do_not_fit_are_named(table, options, words):
    """Catches windows and candidates that the network cannot serve, found out only while decoding."""
    with pytest.raises(ValueError, match=words):
        TopConfidence(**options).check(MODEL, Request.continuing([[0]], length=2, seeds=[0]))


def test_a_mask_among_the_given_tokens_is_named():
    """Catches a position that is given and open at once."""
    with pytest.raises(ValueError, match="mask token"):
        Ancestral().check(MODEL, Request.continuing([[0, V]], length=2, seeds=[0]))
