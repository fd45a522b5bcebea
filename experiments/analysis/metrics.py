"""The metrics of texts and of writing them, each described here alone: what it is called, means, and is computed by.

Tables, plots, the report, A/B, fronts and flags read this list. A new metric is an entry in METRICS, in the order of
the columns of results.csv, and its function (CONTRIBUTING.md, "A metric"). Names of functions only, as analysis runs
none: experiments/evaluation/metrics.py does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

LOWER, HIGHER, NEAREST = "lower", "higher", "nearest to real text"

# Where a metric is shown, beside results.csv and the report's table of everything, which have all.
TABLE = "results.md, and what summary.json and W&B hold"
LISTS = "fronts and lists of a sweep"
DIFFERENCES = "differences of a sweep from its baseline"
OVERVIEW = "plots of a sweep"
SPEED = "the report's table of speed"
CONTROLS = "the report's tables of flags"
POINTS = "points of A/B, one for each seed"

TEXT = "algorithms.common.metrics.text"
CORPUS = "algorithms.common.metrics.corpus"
MARGIN = 0.02  # of a share, bits or nats


@dataclass(frozen=True)
class Metric:
    """A measured quantity.

    `compute` is "module:function", called with what `of` names: `text` (each text by itself; their mean counts),
    `texts`, `sample` (a CorpusSample), `judged` (a Judged) or `features` (PieceFeatures), and with `options`. None of
    these: a cost, which whoever writes the texts states under the key.
    """

    key: str  # column of results.csv
    label: str
    meaning: str  # for who meets it first; follows the label
    compute: str = ""
    of: tuple[str, ...] = ()
    options: Mapping[str, int] = field(default_factory=dict)
    unit: str = ""  # where the label does not tell
    form: str = ".3f"
    whole: bool = False  # a count, without a point
    better: str = NEAREST
    shown: tuple[str, ...] = ()
    claim: str = ""  # what A/B may say of the side with less, or more, of a cost
    margin: float = MARGIN  # beyond the range of real text that is no flag, however little that varies
    short: str = ""  # label in tables of Markdown, where it differs
    axis: str = ""  # of plots, where it differs from the title

    @property
    def title(self) -> str:
        """Label and unit."""
        return ", ".join(filter(None, (self.label, self.unit)))

    @property
    def heading(self) -> str:
        """The same for a narrow column."""
        return self.short or self.title

    @property
    def on_axis(self) -> str:
        return self.axis or self.title

    @property
    def floor(self) -> str:
        """How the same is known of real text, blank for a cost: what a perfect model would have."""
        if not self.of:
            return ""
        halves = {"texts", "sample"} & {*self.of}
        return "one half of the held-out text beside the other" if halves else "as much held-out text"

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.better == LOWER else 1


def _measured(module: str, of: str, key: str, label: str, meaning: str, *shown: str, **more: Any) -> Metric:
    """A metric whose function bears its name."""
    return Metric(key, label, meaning, f"algorithms.common.metrics.{module}:{key}", (of,), shown=shown, **more)


def _distinct(n: int, *shown: str) -> Metric:
    meaning = f"share of different ones among all {n}-grams of characters"
    return Metric(f"distinct_{n}", f"distinct-{n}", meaning, f"{TEXT}:distinct_n", ("text",), {"n": n}, shown=shown)


def _divergence(n: int, *shown: str) -> Metric:
    meaning = f"of the {n}-grams from those of held-out text (Jensen-Shannon)"
    known: dict[str, Any] = {"unit": "bits", "better": LOWER, "axis": f"{n}-gram divergence from held-out text, bits"}
    compute = f"{CORPUS}:ngram_divergence"
    return Metric(f"js_{n}", f"{n}-gram divergence", meaning, compute, ("sample",), {"n": n}, shown=shown, **known)


_of_text = partial(_measured, "text", "text")
_of_texts = partial(_measured, "text_sets", "texts")
_of_sample = partial(_measured, "corpus", "sample")
_of_judges = partial(_measured, "judged", "judged", unit="nats/char")

METRICS: tuple[Metric, ...] = (
    Metric(
        "seconds",
        "seconds",
        "to write all texts of one seed together, on the machine named above",
        form=".2f",
        better=LOWER,
        shown=(TABLE, DIFFERENCES, OVERVIEW, SPEED),
        claim="is faster",
        axis="seconds for all texts of a seed",
    ),
    Metric(
        *("tokens_per_second", "tokens per second", "of all texts together"),
        form=",.0f",
        better=HIGHER,
        shown=(LISTS,),
        short="tokens/s",
    ),
    Metric("steps", "steps", "of the decoder", form=",.0f", whole=True, better=LOWER),
    Metric(
        *("forwards", "forwards", "evaluations of the network: the cost that does not depend on the machine"),
        form=",.0f",
        whole=True,
        better=LOWER,
        shown=(DIFFERENCES, SPEED),
        claim="needs fewer forwards",
        axis="forwards of the network",
    ),
    Metric(
        *("tokens_per_forward", "tokens per forward", "above 1 only where several tokens are decided at once"),
        form=".2f",
        better=HIGHER,
        shown=(TABLE, LISTS, DIFFERENCES, OVERVIEW, SPEED),
        claim="decodes more tokens per forward",
        short="tokens/forward",
    ),
    # Points of A/B go to a judge and to diversity together: loops get a low likelihood under a judge, and more
    # diversity is not better in itself, as random characters have the most.
    _of_judges(
        "judge_nll",
        "judge",
        "how surprising the texts are to a judge, a language model trained on other texts; loops surprise it least",
        *(TABLE, LISTS, DIFFERENCES, OVERVIEW, SPEED, CONTROLS, POINTS),
        better=LOWER,
        axis="judge, nats per character",
    ),
    _of_judges("judge_gap", "judges' gap", "between the largest and the smallest value of a judge", better=LOWER),
    _of_judges("judge_text_sd", "judge's s.d. over texts", "how much single texts differ"),
    # As asked for, and so without a point.
    _of_text("text_length", "length", "characters of a text", form=",.0f", margin=1.0),
    _distinct(1),
    _distinct(2, TABLE, LISTS, DIFFERENCES, OVERVIEW, POINTS),
    _distinct(3, POINTS),
    _distinct(4),
    _of_text(
        *("repeat_ratio", "repeat ratio", "share of characters that equal the one before"),
        *(TABLE, LISTS, DIFFERENCES, POINTS),
    ),
    _of_text("mask_ratio", "mask ratio", "share of positions that were never decided", POINTS),
    _of_text(
        *("character_entropy", "character entropy", "of the characters of a text: low where it loops"),
        *(TABLE, SPEED, CONTROLS, POINTS),
        unit="bits",
    ),
    _divergence(3),
    _divergence(4, TABLE, LISTS, DIFFERENCES, SPEED),
    _divergence(5),
    _of_sample("valid_words", "valid words", "share of words that the corpus has", TABLE, LISTS),
    _of_texts("unique_words", "unique words", "share of different ones among all words"),
    _of_sample("copy_rate", "copied", "share of long passages that stand in the training text word for word", TABLE),
    _of_sample(
        *("longest_copy", "longest copy", "characters in a row that stand in the training text"),
        form=",.0f",
        margin=16.0,
    ),
    _of_texts("self_bleu", "self-BLEU", "how much the texts of one sampler resemble each other"),
    _of_sample("held_out_bleu", "BLEU", "overlap with held-out text"),
    _of_texts("shared_windows", "shared windows", "share of passages that several texts of one sampler have"),
    Metric(
        *("mauve", "MAUVE", "overlap with real text in the judge's features: 1 is alike"),
        *("algorithms.common.metrics.mauve:of_sample", ("features", "sample")),
        better=HIGHER,
    ),
)
# Further metrics: columns at the end of results.csv.

BY_KEY = {metric.key: metric for metric in METRICS}
COST = tuple(metric.key for metric in METRICS if not metric.floor)
QUALITY = tuple(metric.key for metric in METRICS if metric.floor)


def shown_in(place: str) -> tuple[str, ...]:
    """Keys of the metrics that are shown there."""
    return tuple(metric.key for metric in METRICS if place in metric.shown)
