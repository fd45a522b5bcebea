"""Prompts from a configuration or a file, where texts end, and what is kept of them."""

from pathlib import Path

import pytest
import torch

from algorithms.common.decoder import Generation
from datasets.tokenizers import BPETokenizer, ByteTokenizer, CharTokenizer
from experiments.evaluation.samples import read_prompts, read_samples, readable, stop_of
from experiments.run.build import build
from experiments.run.schema import LanguageModelingConfig, SamplingConfig

CHARACTERS = CharTokenizer("abc \n")
BYTES = ByteTokenizer()
BPE = BPETokenizer.train(["the king and the queen\n\nthe king"] * 20, 280)


def generation(texts: list[list[int]]) -> Generation:
    """What a decoder returns, with texts of these ids."""
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    return Generation(ids, 1, 1, 1, lengths=[len(text) for text in texts])


def texts_of(sampling: SamplingConfig) -> list[str]:
    return [prompt.text for prompt in read_prompts(BYTES, sampling)]


def test_prompts_are_one_text_or_several() -> None:
    """Catches a text taken for a list of its characters, an empty prompt without a start, and ids of another text."""
    (one,) = read_prompts(CHARACTERS, SamplingConfig(prompt="ab"))
    assert one == ("ab", CHARACTERS.encode("ab").tolist())
    empty, other = read_prompts(CHARACTERS, SamplingConfig(prompt=["", "c a"]))
    assert empty == ("", [CHARACTERS.start_id]) and other.text == "c a"


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "the king\n\n  queen \r\n1.50\n", ["the king", "  queen ", "1.50"]),
        ("a.txt", "\ufeffeins\n  \nzwei", ["eins", "zwei"]),
        ("prompts", '{"prompt": "a"}\n', ['{"prompt": "a"}']),
        ("a.jsonl", '{"prompt": "a\\nb", "id": 3}\n\n{"prompt": ""}\n', ["a\nb", ""]),
    ],
)
def test_a_file_holds_a_prompt_a_line(tmp_path: Path, name: str, content: str, texts: list[str]) -> None:
    """Catches spaces or numbers that get lost, marks and blank lines taken for prompts, and lines joined."""
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert texts_of(SamplingConfig(prompt_file=str(path))) == texts


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\n \n", "prompt_file=.* holds no text: write a prompt in each line"),
        ("a.txt", b"fine\n\xff", "prompt_file=.* is not UTF-8 at byte 5: save it as UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\nking\n', 'a.jsonl, line 2 is not of the form {"prompt": "TEXT"}'),
        ("a.jsonl", b'{"prompt": 5}', "a.jsonl, line 1 is not of the form"),
        ("a.jsonl", b'{"text": "a"}', "a.jsonl, line 1 is not of the form"),
        ("a.txt", "ab\n\ncä".encode(), "a.txt, line 3: the vocabulary of 5 characters has no 'ä'"),
    ],
)
def test_a_file_without_prompts_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """Catches a traceback, or a sentence that does not say where in the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_prompts(CHARACTERS, SamplingConfig(prompt_file=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"prompt": []}, "experiment.sampling.prompt is an empty list: give a text, or several"),
        ({"prompt": True}, "'experiment.sampling.prompt' has a wrong value: it must be a valid string, not True"),
        (
            {"prompt": ["a", True]},
            "'experiment.sampling.prompt.1' has a wrong value: it must be a valid string, not True",
        ),
        ({"prompt": {"a": 1}}, "'experiment.sampling.prompt' has a wrong value: it must be a valid string, not {"),
        ({"prompt": "a", "prompt_file": "b"}, "experiment.sampling.prompt_file and prompt exclude each other"),
        ({"stop": ""}, "experiment.sampling.stop is an empty text"),
        ({"stop": None}, "'experiment.sampling.stop' has a wrong value"),
        ({"stop": "a", "suffix": "b"}, "experiment.sampling.stop ends a text early, and suffix stands at its end"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(sampling: dict, words: str) -> None:
    """Catches a setting that is left out in silence, and a key that nobody can look up."""
    with pytest.raises(ValueError, match=words) as caught:
        build(LanguageModelingConfig, {"sampling": sampling}, "experiment")
    assert "\n" not in str(caught.value)


def test_numbers_are_text() -> None:
    """Catches a list whose numbers are refused where a single one is a text."""
    found = build(LanguageModelingConfig, {"sampling": {"prompt": [1984, "a"], "stop": 7}}, "experiment").sampling
    assert found.prompt == ["1984", "a"] and found.stop == "7"


def test_a_missing_file_and_unknown_characters_are_named() -> None:
    """Catches a list of prompts of which one cannot be encoded, without saying which."""
    with pytest.raises(FileNotFoundError, match=r"experiment\.sampling\.prompt_file=gone\.txt is no file"):
        read_prompts(CHARACTERS, SamplingConfig(prompt_file="gone.txt"))
    with pytest.raises(ValueError, match=r"experiment\.sampling\.prompt, text 2: the vocabulary of"):
        read_prompts(CHARACTERS, SamplingConfig(prompt=["a", "ä"]))
    with pytest.raises(ValueError, match=r"experiment\.sampling\.stop: the vocabulary of"):
        stop_of(CHARACTERS, SamplingConfig(stop="<|endoftext|>"))


def test_where_texts_end() -> None:
    """Catches a model without an end of documents that stops, one with it that does not, and an end before a suffix."""
    for tokenizer in (CHARACTERS, BYTES):
        assert tokenizer.end_id is None and stop_of(tokenizer, SamplingConfig()) is None
    stop = stop_of(BPE, SamplingConfig())
    spelled = BPE.encode("<|endoftext|>").tolist()
    assert BPE.end_id is not None and stop is not None
    assert stop([5, BPE.end_id]) and not stop([BPE.end_id, 5]) and not stop(spelled)
    assert stop_of(BPE, SamplingConfig(stop=False)) is None
    assert stop_of(BPE, SamplingConfig(suffix="queen")) is None


@pytest.mark.parametrize("tokenizer", [BYTES, BPE], ids=["bytes", "bpe"])
@pytest.mark.parametrize("mark", ["\n\n", "ng an", "ü"])
def test_a_text_ends_where_a_text_is_generated(tokenizer, mark: str) -> None:
    """Catches a mark that is found only if its tokens are those that it has alone."""
    sampling, text = SamplingConfig(stop=mark, prompt="the ki"), "the king and für\n\nthe king"
    stop, (prompt,) = stop_of(tokenizer, sampling), read_prompts(tokenizer, sampling)
    generated = tokenizer.encode(text.removeprefix("the ki")).tolist()
    ends = [n for n in range(1, len(generated) + 1) if stop(generated[:n])]
    assert mark in tokenizer.decode(generated[: ends[0]]) and mark not in tokenizer.decode(generated[: ends[0] - 1])
    cut = generation([prompt.ids + generated[: ends[0]]])
    (sample,) = read_samples(tokenizer, sampling, [prompt], [0], cut, stop)
    assert sample.ended and sample.text == text.partition(mark)[0]


def test_samples_say_which_prompt_they_continue() -> None:
    """Catches a text under another's prompt, an end that is shown, and a start token that is."""
    sampling = SamplingConfig(prompt=["the king", ""], n_samples=2)
    prompts, end = read_prompts(BPE, sampling), BPE.end_id
    words = BPE.encode(" and").tolist()
    ids = [[*prompts[0].ids, *words], [*prompts[0].ids, end], [end, *words, end], [end, end]]
    seeds = [3, 4, 3, 4]
    found = read_samples(BPE, sampling, prompts, seeds, generation(ids), stop_of(BPE, sampling))
    assert [(s.number, s.seed, s.text, s.ended) for s in found] == [
        (1, 3, "the king and", False),
        (1, 4, "the king", True),
        (2, 3, " and", True),
        (2, 4, "", True),
    ]
    assert [sample.prompt for sample in found] == ["the king", "the king", "", ""]
    assert readable(found).startswith("----- prompt 1, seed 3\nthe king and\n\n----- prompt 1, seed 4\n")
    assert readable(found[:2]).startswith("----- seed 3\nthe king and\n")
