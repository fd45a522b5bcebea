"""Names, formats and colours that the whole report shares: one colour per method, one name per figure."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.analysis import decoding_table as table
from experiments.analysis import plots
from experiments.analysis.report.comparison import Comparison, Estimate, Likelihood, Setting

REAL_COLOUR, CONTROL_COLOUR = plots.COLOURS[-1], "#777777"
MARKERS = "osD^vP"
METHODS = {  # algorithm -> what its network learns, for whoever meets it here first
    "gpt": "teacher forcing: the next token, given the true past",
    "df_lm": "Diffusion Forcing: the next token, given a past in which every token has its own noise level",
    "df_lm_faithful": "Diffusion Forcing by its original recipe, moved to text without remedies",
    "masked_diffusion": "hidden tokens, given the others on both sides; a text is decided in any order, or in parallel",
    "diffusion_flow": "masked diffusion with a flow that hidden positions follow while the text is decided",
}


class Figure(NamedTuple):
    """What a figure is called, how it is written, what it says, and its unit where the name does not tell."""

    name: str
    form: str
    meaning: str
    unit: str = ""


REST = Figure("", ".4g", "")
FIGURES = {
    "seconds": Figure("seconds", ".2f", "to write all texts of one seed together, on the machine named above"),
    "tokens_per_second": Figure("tokens per second", ",.0f", "of all texts together"),
    "steps": Figure("steps", ",.0f", "of the decoder"),
    "forwards": Figure("forwards", ",.0f", "evaluations of the network: the cost that does not depend on the machine"),
    "tokens_per_forward": Figure("tokens per forward", ".2f", "above 1 only where several tokens are decided at once"),
    "judge_nll": Figure(
        "judge",
        ".3f",
        "how surprising the texts are to a judge, a language model trained on other texts; loops surprise it least",
        "nats/char",
    ),
    "judge_gap": Figure("judges' gap", ".3f", "between the largest and the smallest figure of a judge", "nats/char"),
    "judge_text_sd": Figure("judge's s.d. over texts", ".3f", "how much single texts differ", "nats/char"),
    "text_length": Figure("length", ",.0f", "characters of a text"),
    **{
        f"distinct_{n}": Figure(f"distinct-{n}", ".3f", f"share of different ones among all {n}-grams of characters")
        for n in (1, 2, 3, 4)
    },
    "repeat_ratio": Figure("repeat ratio", ".3f", "share of characters that equal the one before"),
    "mask_ratio": Figure("mask ratio", ".3f", "share of positions that were never decided"),
    "character_entropy": Figure("entropy", ".3f", "of the characters of a text: low where it loops", "bits"),
    **{
        f"js_{n}": Figure(
            f"{n}-gram divergence", ".3f", f"of the {n}-grams from those of held-out text (Jensen-Shannon)", "bits"
        )
        for n in (3, 4, 5)
    },
    "valid_words": Figure("valid words", ".3f", "share of words that the corpus has"),
    "unique_words": Figure("unique words", ".3f", "share of different ones among all words"),
    "copy_rate": Figure("copied", ".3f", "share of long passages that stand in the training text word for word"),
    "longest_copy": Figure("longest copy", ",.0f", "characters in a row that stand in the training text"),
    "self_bleu": Figure("self-BLEU", ".3f", "how much the texts of one sampler resemble each other"),
    "held_out_bleu": Figure("BLEU", ".3f", "overlap with held-out text"),
    "shared_windows": Figure("shared windows", ".3f", "share of passages that several texts of one sampler have"),
    "mauve": Figure("MAUVE", ".3f", "overlap with real text in the judge's features: 1 is alike"),
}


def colour(comparison: Comparison, label: str) -> str:
    """The colour that a method has in every figure and table."""
    place = _place(comparison, label)
    if place is None:
        return REAL_COLOUR if label == table.REAL else CONTROL_COLOUR
    return plots.COLOURS[place % (len(plots.COLOURS) - 1)]


def marker(comparison: Comparison, label: str) -> str:
    return MARKERS[(_place(comparison, label) or 0) % len(MARKERS)]


def name(figure: str) -> str:
    """What a figure is called; one that is not listed here keeps its own name."""
    return FIGURES.get(figure, REST).name or figure


def title(figure: str) -> str:
    """The heading of a figure: its name, and its unit."""
    return ", ".join(filter(None, (name(figure), FIGURES.get(figure, REST).unit)))


def number(value: float, figure: str) -> str:
    return format(value, FIGURES.get(figure, REST).form)


def estimated(estimate: Estimate | None, figure: str) -> tuple[str, str]:
    """An estimate as text and its interval as another; blank where there is none, or no more than the mean."""
    if estimate is None:
        return "", ""
    mean = number(estimate.mean, figure)
    ends = [] if estimate.interval is None else [number(value, figure) for value in estimate.interval]
    return mean, "" if set(ends) == {mean} else " to ".join(ends)


def nats(likelihood: Likelihood, digits: int = 4) -> str:
    """A likelihood in nats per token: a bound stands behind ≤."""
    error = "" if likelihood.error is None else f" ± {likelihood.error:.{digits}f}"
    return f"{'≤ ' * likelihood.is_bound}{likelihood.nats:.{digits}f}{error}"


def sampler(setting: Setting) -> str:
    """Who wrote a text, in one line: controls without a model and real text go by their own names."""
    method, label = setting
    return label if method in table.MODELLESS else f"{method}, {label}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _place(comparison: Comparison, label: str) -> int | None:
    """The number of a method; None for what is none."""
    return next((place for place, method in enumerate(comparison.methods) if method.label == label), None)
