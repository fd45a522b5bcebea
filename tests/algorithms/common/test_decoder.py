"""The contract of decoders: requests of any shape, what is checked, stop tokens and traces, with a decoder of a
table."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.decoder import Decoder, Generation, Request, TraceRecorder


def at_seven(generated):
    return generated[-1] == 7


@dataclass(frozen=True)
class Counting(Decoder):
    """Writes at every open position what stands before it plus one, modulo 10."""

    name: str = "counting"
    right: bool = False

    def sees_right(self, model):
        return self.right

    def decode(self, model, request):
        ids, recorder = request.ids.clone(), TraceRecorder(request)
        assert len(set(request.lengths)) == 1 and len(set(request.prompt_lengths)) == 1
        for position in range(1, ids.size(1)):
            ids[:, position] = torch.where(
                request.given[:, position], ids[:, position], (ids[:, position - 1] + 1) % 10
            )
            if recorder:
                recorder.add(ids, request.given.float(), forwards=position)
        model.calls += 1
        return Generation(ids, ids.size(1), ids.size(1), int((~request.given).sum()), recorder.trace())


@pytest.fixture
def model():
    return SimpleNamespace(calls=0)


prompts = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=5)


@given(prompts, st.integers(1, 5), st.lists(st.integers(0, 9), max_size=2))
def test_prompts_of_any_lengths_are_each_continued_as_alone(texts, length, suffix):
    """Catches rows of a ragged batch that get each other's tokens, padding taken for text, or a lost suffix."""
    model, decoder, seeds = SimpleNamespace(calls=0), Counting(right=True), list(range(len(texts)))
    out = decoder.generate(model, Request.continuing(texts, length=length, seeds=seeds, suffix=suffix))
    assert model.calls == len({len(text) for text in texts})
    for text, found in zip(texts, out.texts, strict=True):
        (alone,) = decoder.generate(model, Request.continuing([text], length=length, seeds=[0], suffix=suffix)).texts
        assert found == alone
        assert found[: len(text)] == text and found[len(text) + length :] == suffix and len(alone) == len(found)
    assert out.decided == length * len(texts)


def test_a_tensor_of_prompts_is_the_same_request(model):
    """Catches the two ways to give prompts growing apart."""
    rows = torch.tensor([[1, 2], [5, 6]])
    a, b = (Request.continuing(p, length=3, seeds=[0, 1]) for p in (rows, rows.tolist()))
    assert torch.equal(a.ids, b.ids) and torch.equal(a.given, b.given)
    assert Counting().generate(model, a).ids.tolist() == [[1, 2, 3, 4, 5], [5, 6, 7, 8, 9]]


def test_rows_at_once_divide_a_batch(model):
    """Catches a file of prompts that is decoded as one batch, and rows that get lost between its parts."""
    texts = [[1], [2, 3], [4], [5], [6], [7, 8]]
    asked = {"length": 3, "seeds": range(6)}
    whole = Counting().generate(model, Request.continuing(texts, **asked))
    assert model.calls == 2
    parts = Counting().generate(model, Request.continuing(texts, **asked, rows_at_once=2))
    assert model.calls == 2 + 3 and parts.texts == whole.texts and parts.decided == whole.decided


def test_a_text_ends_with_its_first_generated_stop_token(model):
    """Catches a stop token of the prompt that ends the text, one that is cut off, and rows cut at their neighbour's."""
    request = Request.continuing([[7, 4], [0, 1], [5, 6]], length=4, seeds=[0, 1, 2], stop=at_seven)
    out = Counting().generate(model, request)
    assert out.texts == [[7, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5], [5, 6, 7]]
    assert out.ids[2].tolist() == [5, 6, 7, 0, 0, 0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Request.continuing([[]], length=3, seeds=[0]), "at least one token"),
        (lambda: Request.continuing([[1]], length=0, seeds=[0]), "length to generate is 0"),
        (lambda: Request.continuing([[1], [2]], length=3, seeds=[0]), "2 texts need as many seeds"),
        (lambda: Request(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), [0]), "all tokens are given"),
        (lambda: Request(torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool), [0]), "of the shape"),
        (lambda: Request(torch.zeros(1, 3), torch.ones(1, 3), [0]), "must be bool"),
        (
            lambda: Request(torch.zeros(1, 3), torch.zeros(1, 3) == 0, [0], lengths=[4]),
            "lengths must be 1 numbers up to",
        ),
    ],
)
def test_impossible_requests_are_one_sentence(make, words):
    """Catches a request that would fail inside the network, or decide nothing in silence."""
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_decoder_that_is_passed_is_checked(model):
    """Catches a suffix that a decoder would leave out of account, and a decoder that is checked in another's place."""
    request = Request.continuing([[1]], length=3, seeds=[0], suffix=[5])
    Counting(right=True).generate(model, request)
    with pytest.raises(ValueError, match="suffix cannot be seen by the decoder counting"):
        Counting().generate(model, request)
    ragged = Request.continuing([[1], [1, 2]], length=3, seeds=[0, 1], trace=True)
    with pytest.raises(ValueError, match="a trace needs prompts of one length"):
        Counting().generate(model, ragged)
    assert model.calls == 1


def test_given_positions_need_no_pattern(model):
    """Catches holes that are filled over, and a suffix seen where only holes are."""
    given_ = torch.tensor([[True, False, True, False]])
    request = Request(torch.tensor([[1, 9, 5, 9]]), given_, [0])
    assert not request.has_suffix and request.prompt_lengths == [1]
    assert Counting().generate(model, request).ids.tolist() == [[1, 2, 5, 6]]


def test_a_text_that_is_given_as_a_whole_stays(model):
    """Catches a finished text of a batch that cannot be asked for, or is taken for one with a suffix."""
    known = torch.tensor([[True, True, True, False], [True, False, False, False]])
    request = Request(torch.tensor([[4, 5, 6, 0], [1, 0, 0, 0]]), known, [0, 1], lengths=[3, 4])
    assert not request.has_suffix
    out = Counting().generate(model, request)
    assert out.texts == [[4, 5, 6], [1, 2, 3, 4]] and out.decided == 3


def test_a_trace_holds_copies_of_what_was_asked_for(model):
    """Catches states that change after they were recorded, and a trace that nobody asked for."""
    request = Request.continuing([[1]], length=2, seeds=[0], trace=True)
    trace = Counting().generate(model, request).trace
    assert trace.tokens[:, 0].tolist() == [[1, 2, 0], [1, 2, 3]] and trace.forwards.tolist() == [1, 2]
    assert Counting().generate(model, Request.continuing([[1]], length=2, seeds=[0])).trace is None
