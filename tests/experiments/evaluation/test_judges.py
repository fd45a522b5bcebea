"""JudgePanel: batches against the loop, several at once, features, and a stand-in for Hugging Face's library."""

import math
import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from algorithms.common.backbone import BackboneConfig, LanguageModel
from algorithms.common.metrics.judged import judge_nll
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from datasets.tokenizers import ByteTokenizer, CharTokenizer
from experiments.evaluation.judges import panel
from experiments.evaluation.judges.base import Judge
from experiments.evaluation.judges.gpt import GPTJudge
from experiments.evaluation.judges.panel import JudgePanel, load_judge, load_judges
from experiments.evaluation.judges.windows import windowed_sums
from tests.algorithms.common.metrics.measured import of_judged

CONTEXT = 8
LETTERS = "\nabcd"
TEXTS = ["dcabd", "", "a", "abcd" * 30, "bd" * 4, "\nabc" * 5, "dd"]
PROMPTS = ["aba", "", "", "b", "abcdabcdabcd", "", "c"]


def tiny(seed: int = 0, tokenizer: CharTokenizer | ByteTokenizer | None = None) -> GPTJudge:
    tokenizer = tokenizer or CharTokenizer(LETTERS)
    backbone = BackboneConfig(n_layer=1, n_head=2, n_embd=16, block_size=CONTEXT)
    return GPTJudge(GPT(GPTConfig(backbone), vocabulary_size=tokenizer.vocabulary_size, seed=seed), tokenizer)


class Priced(Judge):
    """A judge to whom every character has its price in nats."""

    def __init__(self, prices: dict[str, float]) -> None:
        self.prices = prices
        super().__init__(nn.Linear(1, 1), context=CONTEXT, start_id=0, vocabulary_size=256)

    def check_writer(self, tokenizer: Any) -> None:
        if not set(tokenizer.characters) <= self.prices.keys():
            raise ValueError("unknown characters")

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def nll(self, ids: Tensor) -> Tensor:
        return torch.tensor([[self.prices.get(chr(id), 9.0) for id in row] for row in ids[:, 1:].tolist()])

    def hidden(self, ids: Tensor) -> Tensor:
        return torch.stack([ids.float(), torch.ones_like(ids, dtype=torch.float)], dim=-1)


# --- batches


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 30, 10_000])
def test_batches_are_the_loop_over_texts_and_windows(tokens: int) -> None:
    """Catches texts mixed up in a batch, padding that is scored or seen, and an order of widths that leaks out: every
    window of every text is read here by itself, without padding, and its tokens are scored one by one."""
    judge = tiny()
    judge.tokens = tokens
    model, expected, states = judge.algorithm.model, [], []
    for text, prompt in zip(TEXTS, PROMPTS, strict=True):
        given = judge.encode(prompt)[-CONTEXT:] if prompt else [judge.start_id]
        ids = [*given, *judge.encode(text)]
        width, fresh, nats, hidden = min(CONTEXT + 1, len(ids)), len(given), 0.0, torch.zeros(16)
        last = len(ids) - width
        for start in [*range(0, last, CONTEXT // 2), last] if text else []:
            window = torch.tensor([ids[start : start + width - 1]])
            logits, state = model(window)[0].log_softmax(-1), model.hidden(window)[0]
            for at in range(fresh, start + width):
                nats -= float(logits[at - 1 - start, ids[at]])
                hidden += state[at - 1 - start]
            fresh = start + width
        expected.append(nats)
        states.append((hidden / max(1, len(text))).numpy())
    assert judge.nats(TEXTS, PROMPTS) == pytest.approx(expected, rel=1e-5)
    assert expected[1] == 0.0 and judge.nats(TEXTS, PROMPTS)[1] == 0.0
    read = [i for i, (text, prompt) in enumerate(zip(TEXTS, PROMPTS, strict=True)) if text and not prompt]
    found = judge.features([TEXTS[i] for i in (1, *read)])  # the empty one has no features
    np.testing.assert_allclose(found, np.array([states[i] for i in read]), rtol=1e-4, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, CONTEXT)), max_size=6), st.integers(1, 8), st.data())
def test_every_token_of_every_text_is_scored_once(sizes: list, stride: int, data: st.DataObject) -> None:
    """Catches tokens skipped or counted twice where texts and windows meet, whatever their sizes: values that are the
    tokens themselves add up to each text's own, exactly."""
    texts = [torch.arange(1, size + 1) * 7 % 11 for size, _ in sizes]
    given_tokens = [first for _, first in sizes]
    seen: list[int] = []

    def network(ids: Tensor) -> Tensor:
        seen.append(ids.numel())
        return ids[:, 1:].float()

    tokens = data.draw(st.integers(1, 60))
    sums = windowed_sums(network, texts, given_tokens, CONTEXT, stride=stride, tokens=tokens)
    assert sums.tolist() == [float(ids[first:].sum()) for ids, first in zip(texts, given_tokens, strict=True)]
    assert all(count <= max(tokens, CONTEXT + 1) for count in seen)


# --- several judges


def test_one_judge_is_nats_over_characters() -> None:
    """Catches a mean of the texts' means, a deviation over tokens or of a population, and a gap of 0 with one judge."""
    found = of_judged(JudgePanel([Priced({"a": 1.0, "b": 3.0})]).read(["aa", "bb", "", "abbbbb"], [""] * 4))
    assert found["judge_nll"] == (2 + 6 + 16) / 10 and found["judge_gap"] is None
    own = [1.0, 3.0, 16 / 6]
    mean = sum(own) / 3
    assert found["judge_text_sd"] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in own) / 2))
    judge = tiny()
    alone = judge_nll(JudgePanel([judge]).read(TEXTS, PROMPTS))
    assert alone == math.fsum(judge.nats(TEXTS, PROMPTS)) / sum(map(len, TEXTS))


def test_several_judges_are_averaged_and_their_gap_told() -> None:
    """Catches the gap of neighbours for that of the extremes, and one judge's deviation for the mean."""
    judges = JudgePanel([Priced({"a": 1.0, "b": 3.0}), Priced({"a": 4.0, "b": 4.0}), Priced({"a": 2.0, "b": 1.0})])
    found = of_judged(judges.read(["aa", "bb"], ["", "b"]))
    assert found["judge_nll"] == pytest.approx((2 + 4 + 1.5) / 3) and found["judge_gap"] == 2.5
    assert found["judge_text_sd"] == pytest.approx((2 + 0 + 1) / math.sqrt(2) / 3)


@pytest.mark.parametrize("texts", [[], [""], ["a", ""], ["", ""]], ids=repr)
def test_what_cannot_be_measured_is_none(texts: list[str]) -> None:
    """Catches zeros, NaN and a division by zero where nothing, or one text alone, has characters."""
    found = of_judged(JudgePanel([tiny(), tiny(1)]).read(texts, [""] * len(texts)))
    assert found["judge_text_sd"] is None
    assert [found["judge_nll"] is None, found["judge_gap"] is None] == [not any(texts)] * 2


def test_features_of_several_judges_stand_side_by_side() -> None:
    """Catches one judge's features for all, and a judge of large states that outweighs the others."""
    first, second = tiny(), tiny(1)
    one, two, both = first.features(TEXTS), second.features(TEXTS), JudgePanel([first, second]).features(TEXTS)
    assert both.shape == (6, 32)
    np.testing.assert_allclose(both[:, :16] * np.linalg.norm(one, axis=1, keepdims=True), one)
    np.testing.assert_allclose(both[:, 16:] * np.linalg.norm(two, axis=1, keepdims=True), two)


def test_all_judges_are_asked_whether_they_know_the_writer() -> None:
    """Catches a check of the first judge only, and a fingerprint that leaves one out."""
    knowing, other = tiny(), Priced({"a": 1.0})
    judges = JudgePanel([knowing, other])
    judges.check_writer(CharTokenizer("a"))
    with pytest.raises(ValueError, match="unknown characters"):
        judges.check_writer(CharTokenizer("ab"))
    assert judges.fingerprint == f"{knowing.fingerprint}+{other.fingerprint}"
    judges.to(torch.device("meta"))
    assert all(weight.is_meta for judge in judges.judges for weight in judge.network.parameters())


def test_the_same_judge_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a gap of 0 that looks like agreement."""
    monkeypatch.setattr(panel, "load_judge", lambda path: tiny(int(path[-1])))
    assert len(load_judges(["run-0", "run-1"]).judges) == 2
    with pytest.raises(ValueError, match=r"experiment\.judge holds the same weights twice, as run-0 and copy-0: give"):
        load_judges(["run-0", "run-1", "copy-0"])


# --- Hugging Face


class Causal(nn.Module):
    """What the library gives for a causal model, around the weights of a GPT of ours."""

    def __init__(self, model: LanguageModel, *, positions: int | None = CONTEXT) -> None:
        super().__init__()
        self.model = model
        self.config = SimpleNamespace(vocab_size=model.wte.num_embeddings, max_position_embeddings=positions)

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.model(input_ids))

    def base_model(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.model.hidden(input_ids))


class Characters:
    """What it gives for a tokenizer: ids of CharTokenizer, one more for what is unknown."""

    bos_token_id: int | None = None
    eos_token_id: int | None = 0
    unk_token_id: int | None = 99

    def __call__(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> SimpleNamespace:
        assert split_special_tokens and not add_special_tokens
        return SimpleNamespace(input_ids=[LETTERS.find(c) if c in LETTERS else 99 for c in text])


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the package `transformers` whose hub holds the model `ours`."""
    hub = SimpleNamespace(network=Causal(tiny().algorithm.model), tokenizer=Characters())

    def load(what: str) -> Any:
        def from_pretrained(name: str, *, trust_remote_code: bool) -> Any:
            assert not trust_remote_code
            if name != "ours":
                raise OSError(f"{name} is not a local folder\nand something else")
            return getattr(hub, what)

        return SimpleNamespace(from_pretrained=from_pretrained)

    module = SimpleNamespace(AutoModelForCausalLM=load("network"), AutoTokenizer=load("tokenizer"))
    monkeypatch.setitem(sys.modules, "transformers", module)
    return hub


def test_the_same_weights_judge_alike_from_either_library(library: SimpleNamespace) -> None:
    """Catches a shift by one token, an unset evaluation mode, a lost context or start token, and the states of another
    layer: a judge of ours and one from the library, of the same weights, say the same."""
    library.network.train()
    ours, theirs = tiny(), load_judge("hf:ours")
    assert theirs.context == CONTEXT and not theirs.network.training
    assert theirs.nats(TEXTS, PROMPTS) == pytest.approx(ours.nats(TEXTS, PROMPTS), rel=1e-6)
    np.testing.assert_allclose(theirs.features(TEXTS), ours.features(TEXTS), rtol=1e-5, atol=1e-7)
    theirs.check_writer(CharTokenizer(LETTERS))
    theirs.check_writer(ByteTokenizer())


def test_a_model_without_a_bound_of_its_context_gets_one(library: SimpleNamespace) -> None:
    """Catches a window of a hundred thousand tokens, and a missing size."""
    library.network.config.vocab_size = 50_257
    for positions in (None, 131_072):
        library.network.config.max_position_embeddings = positions
        judge = load_judge("hf:ours")
        assert judge.context == 1024 and judge.tokens == 2**26 // 50_257


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"path": "hf:nowhere"},
            "hf:nowhere is no causal model of Hugging Face (nowhere is not a local folder): check",
        ),
        (
            {"start": None},
            "experiment.judge=hf:ours has no token that a text begins or ends with: choose another model",
        ),
        ({"attention": "bidirectional"}, "experiment.judge=hf:ours sees what follows a token: choose a causal"),
        ({"absent": True}, 'hf:ours needs the package transformers: pip install -c constraints.txt ".[judge]"'),
    ],
    ids=str,
)
def test_no_judge_is_one_sentence(
    library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], sentence: str
) -> None:
    """Catches a traceback of the library, its many lines, and a masked model whose nats are no likelihood."""
    if "start" in change:
        library.tokenizer.eos_token_id = change["start"]
    if "attention" in change:
        library.network.model.backbone.attention = change["attention"]
    if "absent" in change:
        monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=re.escape(sentence)) as raised:
        load_judge(change.get("path", "hf:ours"))
    assert "\n" not in str(raised.value)


def test_characters_that_a_vocabulary_lacks_are_named(library: SimpleNamespace) -> None:
    """Catches nats of a stand-in token that pass for those of the text."""
    judge = load_judge("hf:ours")
    with pytest.raises(ValueError, match=r"hf:ours cannot read a text: its vocabulary has no '1', 'x'; choose a judge"):
        judge.check_writer(CharTokenizer("ax1"))
    with pytest.raises(ValueError, match="has no 'x'"):
        judge.nats(["abx"], [""])
    library.tokenizer.unk_token_id = None
    assert judge.encode("ab") == [1, 2]
