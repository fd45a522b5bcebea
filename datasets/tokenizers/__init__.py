"""Text <-> token ids: a registry of tokenizers by the name that `dataset.tokenizer=` gives them."""

from datasets.tokenizers.base import Tokenizer, pieces
from datasets.tokenizers.bpe import END_OF_TEXT, BPETokenizer
from datasets.tokenizers.byte import ByteTokenizer
from datasets.tokenizers.char import CharTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    "char": CharTokenizer,
    "byte": ByteTokenizer,
    "bpe": BPETokenizer,
}


def tokenizer_from_state(state: dict) -> Tokenizer:
    """The tokenizer that `state()` described; ValueError for an unknown kind."""
    if state["kind"] not in TOKENIZERS:
        known = ", ".join(TOKENIZERS)
        raise ValueError(f"unknown kind of tokenizer {state['kind']!r}: expected one of {known}")
    return TOKENIZERS[state["kind"]](**{key: value for key, value in state.items() if key != "kind"})


__all__ = [
    "END_OF_TEXT",
    "TOKENIZERS",
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Tokenizer",
    "pieces",
    "tokenizer_from_state",
]
