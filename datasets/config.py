"""What a user may say about the data: one frozen dataclass, checked before any work starts."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

# What dataset.path means to each corpus.
PATH_NEEDED = ("text_file", "openwebtext")
PATH_ACCEPTED = ("tiny_shakespeare", "text8")
PATH_REFUSED = ("shakespeare", "shakespeare_complete", "shakespeare_other")
CORPORA = (*PATH_REFUSED, *PATH_ACCEPTED, *PATH_NEEDED)
TOKENIZERS = ("char", "byte", "bpe")
HELD_OUT_DEFAULTS = {"text_file": 0.1, "openwebtext": 0.01}
SMALLEST_BPE = 257  # the 256 bytes and the end-of-text token


@dataclass(frozen=True)
class DatasetConfig:
    """A corpus, its tokenizer and where prepared arrays are kept; raises ValueError on an impossible combination."""

    name: str  # one of CORPORA
    path: str | None = None  # the user's file or folder, where the corpus needs or accepts one
    tokenizer: str = "char"  # one of TOKENIZERS
    vocab_size: int | None = None  # size of a bpe vocabulary trained on the train split; read by bpe only
    tokenizer_path: str | None = None  # a tokenizer.json to load instead of training one; bpe only
    held_out_fraction: float | None = None  # share of text_file and openwebtext kept from training
    cache_dir: str = "data"  # prepared arrays and downloads

    def __post_init__(self):
        check_choice("dataset.name", self.name, CORPORA)
        check_choice("dataset.tokenizer", self.tokenizer, TOKENIZERS)
        if self.name in PATH_NEEDED and not self.path:
            raise ValueError(f"dataset={self.name} reads your own text: say where it is with dataset.path=PATH")
        if self.name in PATH_REFUSED and self.path is not None:
            raise ValueError(
                f"dataset={self.name} takes no dataset.path: leave it out, "
                "or choose dataset=text_file to read a file of your own"
            )
        if self.name == "openwebtext" and self.tokenizer == "char":
            raise ValueError(
                "dataset=openwebtext is read as a stream, so its characters are not known beforehand: "
                "choose dataset.tokenizer=bpe or dataset.tokenizer=byte"
            )
        if self.tokenizer_path is not None and self.tokenizer != "bpe":
            raise ValueError(
                f"dataset.tokenizer_path belongs to dataset.tokenizer=bpe, not to {self.tokenizer}: "
                "change one of the two"
            )
        if self.tokenizer == "bpe" and self.tokenizer_path is None:
            if self.vocab_size is None:
                raise ValueError(
                    "dataset.tokenizer=bpe needs dataset.vocab_size=N to be trained, "
                    "or dataset.tokenizer_path=tokenizer.json to be loaded"
                )
            if self.vocab_size < SMALLEST_BPE:
                raise ValueError(
                    f"dataset.vocab_size={self.vocab_size} is too small: byte-level bpe needs at least "
                    f"{SMALLEST_BPE} (256 bytes and the end-of-text token)"
                )
        if self.held_out_fraction is not None:
            if self.name not in HELD_OUT_DEFAULTS:
                raise ValueError(
                    f"dataset={self.name} has fixed splits: leave dataset.held_out_fraction out "
                    f"(it belongs to {' and '.join(HELD_OUT_DEFAULTS)})"
                )
            if not 0 < self.held_out_fraction <= 0.5:
                raise ValueError(
                    f"dataset.held_out_fraction={self.held_out_fraction} is out of range: "
                    "it must be above 0 and at most 0.5"
                )

    @property
    def given_path(self) -> str:
        """The path of a corpus that cannot do without one."""
        assert self.path is not None  # checked above
        return self.path

    @property
    def held_out(self) -> float:
        """Share of the text that goes to val and test together (text_file and openwebtext)."""
        return HELD_OUT_DEFAULTS[self.name] if self.held_out_fraction is None else self.held_out_fraction


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError with the nearest choice when value is none of them."""
    choices = list(choices)
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]}?" if near else "."
        raise ValueError(f"unknown {key}={value}{hint} Choices: {', '.join(choices)}")
