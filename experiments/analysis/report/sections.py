"""The report in the order in which a newcomer reads it: each section says what it shows, how to read it, and what not
to conclude; then what was measured, or a sentence on what is missing."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from experiments.analysis.report import document, naming, plots, summary, tables, texts, versus
from experiments.analysis.report.comparison import Comparison
from experiments.analysis.report.document import ALARM, Block, Commands, Details, Document, Gallery, Picture, note, say

NO_TRACES = "No traces were recorded."
INTERVALS = (
    "the 95 % bootstrap interval of the mean over sampling seeds. With three seeds that is their range, with fewer "
    "there is none."
)
OVER_TRAININGS = (
    "the 95 % interval of the mean over training seeds by Student's t, from three on, sampling seeds averaged within "
    "each. What was trained once, and real text, has a bootstrap interval over sampling seeds, which says nothing of "
    "other training seeds."
)


TWO_ERRORS = (
    "Means are over training seeds. Small below them is the 95 % interval of the mean over training seeds by "
    "Student's t, wide with three seeds because three tell little of the next; two seeds have no interval, but their "
    "values. It says what other training seeds would change, on these windows. ± over windows is a standard error, "
    "says what other windows would change, for a likelihood of one training and for a gap of the mean of these "
    "trainings, and is no part of the interval. A gap is settled if its "
    f"interval over training seeds leaves out 0 and it is more than {tables.SURE:g} standard errors over windows; it "
    "is open with fewer than three training seeds of either side."
)


def build(comparison: Comparison) -> Document:
    """All sections; draws the plots that they show into the folder plots/."""
    about = comparison.about
    subtitle = naming.listed([method.label for method in comparison.methods])
    subtitle += f" on {about['dataset']}" if about.get("dataset") else ""
    head: list[Block] = [
        say(summary.purpose(comparison)),
        summary.methods(comparison),
        summary.findings(comparison),
        say("What was run:"),
        summary.facts(comparison),
    ]
    if about.get("command"):
        head.append(Commands(about["command"]))
    makers: dict[tuple[str, str], Callable[[Comparison], Iterable[Block]]] = {
        ("likelihood", "Likelihood"): _likelihood,
        ("versus", "Head to head"): versus.section,
        ("training", "Training curves"): _training,
        ("frontier", "Quality against diversity"): _frontier,
        ("speed", "Speed"): _speed,
        ("samples", "Samples side by side"): texts.side_by_side,
        ("levels", "Scheduling matrices"): _levels,
        ("animation", "The methods at work"): _animation,
        ("nonsense", "Would nonsense win here?"): _nonsense,
        ("metrics", "All metrics"): _everything,
        ("reproduce", "How to reproduce"): _reproduce,
    }
    if comparison.pair is None:
        del makers["versus", "Head to head"]
    sections = [document.Section(name, title, list(make(comparison))) for (name, title), make in makers.items()]
    return Document(about.get("title") or "Comparison", subtitle, head, sections)


def _likelihood(comparison: Comparison) -> Iterator[Block]:
    error = "" if comparison.several else " ± standard error over windows"
    yield say(
        f"How well each model predicts text that it has never seen, in nats per token{error}; lower is better. Compare "
        "values of one kind only: an exact value is the model's likelihood itself, a bound (≤) lies above it by an "
        "unknown amount, so a higher bound does not show a worse model."
    )
    if not comparison.likelihoods:
        yield note("No likelihood was measured.")
        return
    yield tables.likelihoods(comparison)
    if comparison.several:
        yield say(TWO_ERRORS)
        picture = plots.training_seeds(comparison)
        if picture:
            yield picture
    split = naming.listed(sorted({each.split for each in comparison.likelihoods}))
    part = comparison.about.get("part")
    said = f"Split: {split}{f', {part}' if part else ''}. Kinds stand in groups and are not ranked against each other."
    base, with_error = tables.baseline(comparison), "with the standard error of the paired differences"
    if comparison.several:
        with_error += (
            ", and an interval over training seeds, paired where both have the same ones and Welch's otherwise"
        )
    if base is not None:
        said += (
            f" The gap is the mean difference to {base.method} ({base.name}, exact) over the same windows, {with_error}"
            "; behind ≤ it is a bound minus an exact value, which the true gap may lie far below."
        )
    elif comparison.likelihoods:
        said += (
            f" The gap is the mean difference to the likelihood of {comparison.methods[0].label} of the same name and "
            f"kind, over the same windows, {with_error}; between two bounds it is one of bounds."
        )
    yield note(said)


def _training(comparison: Comparison) -> Iterator[Block]:
    yield say(
        "Validation NLL while the models learn, over the tokens that they have seen and over the time that it took "
        "on this machine. Solid lines are exact likelihoods and dashed ones upper bounds: do not rank a dashed "
        "line against a solid one, nor take a curve that still falls for what a method can reach."
    )
    picture = plots.training_curves(comparison)
    yield picture or note("No training records (metrics.csv) were found.")
    without = [method.label for method in comparison.methods if method.first.folder is None]
    if picture and without:
        yield note(f"Without a training folder: {naming.listed(without)}.")


def _frontier(comparison: Comparison) -> Iterator[Block]:
    yield say(
        "Likely text against varied text: each curve is a method from low to high temperature (the small numbers), "
        "judged by a language model that was trained on other texts. The star is real text, and nearer to it is "
        "better on both axes at once; lower alone is not better, as the crosses show, which are nonsense or copies."
    )
    caption = "Judge against {}, a curve over temperature for each method."
    shown = [
        plots.against(comparison, "character_entropy", "frontier.png", caption.format("character entropy")),
        plots.against(comparison, "js_4", "divergence.png", caption.format("the divergence of 4-grams")),
    ]
    yield _gallery(shown, comparison, "No settings over temperature were measured")
    yield note(f"Bars: {OVER_TRAININGS if comparison.several else INTERVALS}")


def _speed(comparison: Comparison) -> Iterator[Block]:
    yield say(
        "What texts cost and how likely the judge finds them, for decoders at temperature 1; left and low is cheap "
        "and likely. Seconds hold for this machine and code only, forwards for any; forwards of a model with a "
        "cache are cheaper than those of one without, so compare them together, and judge no setting by one column."
    )
    measured = tables.speed(comparison)
    if not measured.rows:
        yield note("No settings for speed were measured.")
        return
    caption = "Judge against {}, a point for each decoder setting at temperature 1, numbered as in the table."
    shown = [
        plots.quality_against(comparison, "seconds", "quality_seconds.png", caption.format("seconds")),
        plots.quality_against(comparison, "forwards", "quality_forwards.png", caption.format("forwards")),
    ]
    yield _gallery(shown, comparison, "Quality against cost cannot be drawn")
    caption = "Tokens decided per forward: above 1 a decoder works in parallel."
    bars = plots.tokens_per_forward(comparison, "tokens_per_forward.png", caption)
    if bars:
        yield bars
    yield measured
    intervals = OVER_TRAININGS if comparison.several else INTERVALS
    yield note(
        f"Small beside each mean, and as bars: {intervals} No best value is marked: none is best at equal quality."
    )


def _levels(comparison: Comparison) -> Iterator[Block]:
    yield say(
        "In which order each method decides its text: every row is a step, downwards, and every column a position. "
        "Where many cells change in one row, many tokens are decided at once. These are single texts, and the "
        "order says nothing about their quality."
    )
    drawn = [
        plots.levels(comparison, method.label, f"levels_{number}_{_file_name(method.label)}.png")
        for number, method in enumerate(comparison.methods, 1)
    ]
    shown = [picture for picture in drawn if picture]
    yield Gallery(shown) if shown else note(NO_TRACES)


def _animation(comparison: Comparison) -> Iterator[Block]:
    yield say(
        "The same traces as the texts come into being, on one clock that counts forwards of the network: who "
        "needs fewer is done first. A forward takes longer for some methods, so this is no race in seconds."
    )
    yield plots.animation(comparison) or note(NO_TRACES)


def _nonsense(comparison: Comparison) -> Iterator[Block]:
    yield say(
        "Samplers of nonsense, loops and copies go through the same measures as the methods. A metric flags a "
        "sampler where it lies clearly outside what real text of the same size has; a flag says unlike, not worse, "
        "and a sampler without flags is not good, only not caught by these metrics."
    )
    checked = tables.flags(comparison, comparison.controls, alarm=True)
    if checked.rows:
        yield checked
        fooled = summary.ahead(comparison)
        if fooled:
            names = naming.listed(list(map(naming.sampler, fooled)))
            yield say(f"By the judge alone, {names} would come before every method: never read it alone.")
        for key in summary.unflagged(comparison):
            alarm = f"{naming.sampler(key)} is flagged by no metric: these measures cannot tell it from real text."
            yield say(alarm, tone=ALARM)
    else:
        yield note("No controls were measured, so nothing shows that nonsense would lose.")
    written = texts.of_controls(comparison)
    if written:
        yield Details("What the controls write", [written])
    own = tables.flags(comparison, comparison.defaults, alarm=False)
    if own.rows:
        yield say("The same for the default decoder of every method:")
        yield own


def _everything(comparison: Comparison) -> Iterator[Block]:
    seeds = "sampling seeds"
    if comparison.several:
        seeds = "training seeds, sampling seeds averaged within each, or over sampling seeds of what was trained once"
    yield say(
        f"Every metric of every setting, mean and ± standard deviation over {seeds} (from three on, if they "
        "differ); a blank was not measured. There is no overall score: each metric alone can be won by a text that "
        "nobody wants."
    )
    if not comparison.groups:
        yield note("No setting was measured.")
        return
    found = tables.everything(comparison)
    yield Details(f"All metrics of {len(found.rows)} settings", [found])
    yield Details("What each metric says", [tables.glossary(comparison)])


def _reproduce(comparison: Comparison) -> Iterator[Block]:
    yield say(
        "The first command makes the whole comparison; below it, the runs that it consists of. On the same machine the "
        "same versions and seeds give the same values, but for those that measure time."
    )
    about = comparison.about
    lines = [about["command"]] if about.get("command") else []
    own = [
        (", ".join([method.label, *[one.called] * (len(method.trainings) > 1)]), one.command)
        for method in comparison.methods
        for one in method.trainings
    ]
    own += [(f"judge {number}", judge.get("command")) for number, judge in enumerate(comparison.judges, 1)]
    lines += [f"# {name}\n{line}" for name, line in own if line]
    yield Commands("\n".join(lines)) if lines else note("No commands were recorded.")
    versions = ", ".join(f"{name} {number}" for name, number in (about.get("versions") or {}).items())
    said = f"Versions: {versions}. " if versions else ""
    again = document.Code("python -m experiments.analysis.report RUN")
    yield say(said, "The report is made of the files of this folder alone: ", again, ".")


def _gallery(pictures: Sequence[Picture | None], comparison: Comparison, otherwise: str) -> Block:
    shown = [picture for picture in pictures if picture]
    if shown:
        return Gallery(shown)
    judged = any(row["judge_nll"] is not None for row in comparison.rows)
    return note(f"{otherwise}." if judged else f"{otherwise}: there was no judge.")


def _file_name(label: str) -> str:
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in label)
