"""Tokenizers: round trips, what lies outside the vocabulary, and states that rebuild the tokenizer."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.tokenizers import END_OF_TEXT, BPETokenizer, ByteTokenizer, CharTokenizer, pieces, tokenizer_from_state

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n" * 3
BPE = BPETokenizer.train([TEXT], vocab_size=300)
TOKENIZERS = [CharTokenizer(TEXT), ByteTokenizer(), BPE]

any_text = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.kind)
def test_round_trip_and_state(tokenizer):
    """Catches a lossy encoding, and a checkpoint whose tokenizer would read other ids than training wrote."""
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int64
    assert ids.min() >= 0 and ids.max() < tokenizer.vocabulary_size
    assert tokenizer.decode(ids) == TEXT
    again = tokenizer_from_state(json.loads(json.dumps(tokenizer.state())))
    assert again.vocabulary_size == tokenizer.vocabulary_size
    assert again.start_id == tokenizer.start_id
    assert again.encode(TEXT).tolist() == ids.tolist()


def test_char_ids_follow_the_sorted_characters():
    """Catches another order than nanoGPT's, with which its checkpoints would decode to nonsense."""
    tokenizer = CharTokenizer("hello\nworld")
    characters = sorted(set("hello\nworld"))
    assert tokenizer.encode("hello").tolist() == [characters.index(c) for c in "hello"]
    assert tokenizer.start_id == tokenizer.encode("\n")[0]


@pytest.mark.parametrize("unknown", ["é", "\x00", "\U0001f600"])
def test_unknown_characters_are_named(unknown):
    """Catches an unknown character that takes its neighbour's id, at either end of the table or beyond it."""
    with pytest.raises(ValueError) as caught:
        CharTokenizer(TEXT).encode("hear" + unknown)
    assert repr(unknown) in str(caught.value)
    assert "dataset.tokenizer=byte" in str(caught.value)


@given(any_text)
def test_bytes_know_every_text(text):
    """Catches an encoding that drops or merges characters outside ASCII."""
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)) == text


@given(st.lists(st.integers(0, 255)))
def test_bytes_decode_anything(ids):
    """Catches a sample of a young model that ends the program because it is no UTF-8."""
    assert isinstance(ByteTokenizer().decode(ids), str)


@given(any_text)
def test_bpe_knows_every_text(text):
    """Catches a vocabulary without all bytes, and a spelt-out end-of-text mark that turns into the token."""
    assert BPE.decode(BPE.encode(text)) == text
    assert BPE.start_id not in BPE.encode(text + END_OF_TEXT)


def test_bpe_is_smaller_than_bytes_and_repeats():
    """Catches merges that are not learned or not applied, and a training that depends on more than its text."""
    assert len(BPE.encode(TEXT)) < len(TEXT) / 2
    assert BPETokenizer.train([TEXT], vocab_size=300).state() == BPE.state()


def test_bpe_from_a_file(tmp_path):
    """Catches a loaded tokenizer that differs from the saved one, and a raw traceback for a wrong file."""
    file = tmp_path / "tokenizer.json"
    file.write_text(BPE.state()["json"], encoding="utf-8")
    assert BPETokenizer.load(file).encode(TEXT).tolist() == BPE.encode(TEXT).tolist()
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        BPETokenizer.load(file)
    with pytest.raises(FileNotFoundError, match="tokenizer_path"):
        BPETokenizer.load(tmp_path / "missing.json")


def changed(**parts):
    """The JSON of BPE with other parts; `model` and its like are merged into what is there."""
    content = json.loads(BPE.state()["json"])
    return json.dumps(content | {k: (content[k] or {}) | v if isinstance(v, dict) else v for k, v in parts.items()})


TRUNCATION = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
PADDING = {"strategy": {"Fixed": 900}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
PADDING |= {"pad_type_id": 0, "pad_token": END_OF_TEXT}


@pytest.mark.parametrize("parts", [{"truncation": TRUNCATION}, {"padding": PADDING}, {"model": {"dropout": 0.5}}])
def test_what_a_file_does_to_batches_is_switched_off(parts):
    """Catches a corpus that is cut, padded or tokenized at random in silence, as settings for training a model ask."""
    tokenizer = BPETokenizer(changed(**parts))
    assert tokenizer.encode(TEXT).tolist() == BPE.encode(TEXT).tolist()
    assert tokenizer.state() == BPE.state()


@pytest.mark.parametrize(
    ("parts", "text", "words"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "Hear me", "'Hear me' comes back as 'hear me'"),
        ({"normalizer": {"type": "NFKC"}}, "speak \ufb01ne", "comes back as 'speak fine'"),
        ({"normalizer": {"type": "StripAccents"}}, "cafe\u0301", "comes back as 'cafe'"),
        ({"pre_tokenizer": {"add_prefix_space": True}}, "hear me", "'hear me' comes back as ' hear me'"),
        ({"pre_tokenizer": None, "decoder": None}, "hear é", "the tokenizer changes the text"),
    ],
)
def test_a_file_that_changes_texts_is_refused(parts, text, words):
    """Catches likelihoods of another text than the one that was given."""
    with pytest.raises(ValueError, match=words) as caught:
        BPETokenizer(changed(**parts)).encode(text)
    assert "dataset.tokenizer=byte" in str(caught.value) and "\n" not in str(caught.value)


def test_a_mark_that_a_file_holds_as_ordinary_is_ours():
    """Catches a text that spells the end of text out and becomes its token."""
    content = json.loads(BPE.state()["json"])
    content["added_tokens"][0]["special"] = False
    tokenizer = BPETokenizer(json.dumps(content))
    assert not tokenizer.end_is_added and tokenizer.start_id == BPE.start_id
    assert tokenizer.start_id not in tokenizer.encode(TEXT + END_OF_TEXT)


@pytest.mark.parametrize("kind", TOKENIZERS, ids=lambda tokenizer: tokenizer.kind)
@given(any_text)
def test_no_tokenizer_changes_a_text_in_silence(kind, text):
    """Catches ids that stand for another text than they were made of."""
    try:
        ids = kind.encode(text)
    except ValueError:
        return
    assert kind.decode(ids) == text


def test_an_unknown_state_is_refused():
    """Catches a state of a later version that is taken for one of ours."""
    with pytest.raises(ValueError, match="unigram"):
        tokenizer_from_state({"kind": "unigram"})


@given(any_text.map(lambda text: text + "  \n ab c"), st.integers(1, 20))
def test_pieces_encode_to_the_same_tokens_as_the_whole(text, size):
    """Catches a cut through a token, which would make the prepared ids depend on the size of the pieces."""
    cut = list(pieces(text, size))
    assert "".join(cut) == text
    for tokenizer in (ByteTokenizer(), BPE):
        whole = tokenizer.encode(text).tolist()
        assert np.concatenate([tokenizer.encode(piece) for piece in cut]).tolist() == whole
