"""The metrics of texts and of writing them, each described here alone: what it is called, means, and is computed by.

Tables, plots, the report, A/B, fronts and flags read this list. A new metric is an entry in METRICS, in the order of
the columns of results.csv, and its function (CONTRIBUTING.md, "A metric"). Names of functions only, as analysis runs
none: experiments/evaluation/metrics.py does.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
SETS = "algorithms.common.metrics.text_sets"
CORPUS = "algorithms.common.metrics.corpus"
JUDGED = "algorithms.common.metrics.judged"
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


def _distinct(n: int, *shown: str) -> Metric:
    meaning = f"share of different ones among all {n}-grams of characters"
    return Metric(f"distinct_{n}", f"distinct-{n}", meaning, f"{TEXT}:distinct_n", ("text",), {"n": n}, shown=shown)


def _divergence(n: int, *shown: str) -> Metric:
    return Metric(
        f"js_{n}",
        f"{n}-gram divergence",
        f"of the {n}-grams from those of held-out text (Jensen-Shannon)",
        *(f"{CORPUS}:ngram_divergence", ("sample",), {"n": n}),
        unit="bits",
        better=LOWER,
        shown=shown,
        axis=f"{n}-gram divergence from held-out text, bits",
    )


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
        "tokens_per_second",
        "tokens per second",
        "of all texts together",
        form=",.0f",
        better=HIGHER,
        shown=(LISTS,),
        short="tokens/s",
    ),
    Metric("steps", "steps", "of the decoder", form=",.0f", whole=True, better=LOWER),
    Metric(
        "forwards",
        "forwards",
        "evaluations of the network: the cost that does not depend on the machine",
        form=",.0f",
        whole=True,
        better=LOWER,
        shown=(DIFFERENCES, SPEED),
        claim="needs fewer forwards",
        axis="forwards of the network",
    ),
    Metric(
        "tokens_per_forward",
        "tokens per forward",
        "above 1 only where several tokens are decided at once",
        form=".2f",
        better=HIGHER,
        shown=(TABLE, LISTS, DIFFERENCES, OVERVIEW, SPEED),
        claim="decodes more tokens per forward",
        short="tokens/forward",
    ),
    # Points of A/B go to a judge and to diversity together: loops get a low likelihood under a judge, and more
    # diversity is not better in itself, as random characters have the most.
    Metric(
        "judge_nll",
        "judge",
        "how surprising the texts are to a judge, a language model trained on other texts; loops surprise it least",
        *(f"{JUDGED}:judge_nll", ("judged",)),
        unit="nats/char",
        better=LOWER,
        shown=(TABLE, LISTS, DIFFERENCES, OVERVIEW, SPEED, CONTROLS, POINTS),
        axis="judge, nats per character",
    ),
    Metric(
        "judge_gap",
        "judges' gap",
        "between the largest and the smallest value of a judge",
        *(f"{JUDGED}:judge_gap", ("judged",)),
        unit="nats/char",
        better=LOWER,
    ),
    Metric(
        "judge_text_sd",
        "judge's s.d. over texts",
        "how much single texts differ",
        *(f"{JUDGED}:judge_text_sd", ("judged",)),
        unit="nats/char",
    ),
    # As asked for, and so without a point.
    Metric("text_length", "length", "characters of a text", f"{TEXT}:text_length", ("text",), form=",.0f", margin=1.0),
    _distinct(1),
    _distinct(2, TABLE, LISTS, DIFFERENCES, OVERVIEW, POINTS),
    _distinct(3, POINTS),
    _distinct(4),
    Metric(
        "repeat_ratio",
        "repeat ratio",
        "share of characters that equal the one before",
        *(f"{TEXT}:repeat_ratio", ("text",)),
        shown=(TABLE, LISTS, DIFFERENCES, POINTS),
    ),
    Metric(
        "mask_ratio",
        "mask ratio",
        "share of positions that were never decided",
        *(f"{TEXT}:mask_ratio", ("text",)),
        shown=(POINTS,),
    ),
    Metric(
        "character_entropy",
        "character entropy",
        "of the characters of a text: low where it loops",
        *(f"{TEXT}:character_entropy", ("text",)),
        unit="bits",
        shown=(TABLE, SPEED, CONTROLS, POINTS),
    ),
    _divergence(3),
    _divergence(4, TABLE, LISTS, DIFFERENCES, SPEED),
    _divergence(5),
    Metric(
        "valid_words",
        "valid words",
        "share of words that the corpus has",
        *(f"{CORPUS}:valid_words", ("sample",)),
        shown=(TABLE, LISTS),
    ),
    Metric(
        "unique_words",
        "unique words",
        "share of different ones among all words",
        *(f"{SETS}:unique_words", ("texts",)),
    ),
    Metric(
        "copy_rate",
        "copied",
        "share of long passages that stand in the training text word for word",
        *(f"{CORPUS}:copy_rate", ("sample",)),
        shown=(TABLE,),
    ),
    Metric(
        "longest_copy",
        "longest copy",
        "characters in a row that stand in the training text",
        *(f"{CORPUS}:longest_copy", ("sample",)),
        form=",.0f",
        margin=16.0,
    ),
    Metric(
        "self_bleu",
        "self-BLEU",
        "how much the texts of one sampler resemble each other",
        *(f"{SETS}:self_bleu", ("texts",)),
    ),
    Metric("held_out_bleu", "BLEU", "overlap with held-out text", f"{CORPUS}:held_out_bleu", ("sample",)),
    Metric(
        "shared_windows",
        "shared windows",
        "share of passages that several texts of one sampler have",
        *(f"{SETS}:shared_windows", ("texts",)),
    ),
    Metric(
        "mauve",
        "MAUVE",
        "overlap with real text in the judge's features: 1 is alike",
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
