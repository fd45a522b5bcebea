"""The parts of the report that other modules of the analysis draw: training curves and the animation."""

from experiments.analysis.animation import html_fragment, write_gif
from experiments.analysis.curves import plot_curves, validated
from experiments.analysis.report import naming, plots
from experiments.analysis.report.comparison import Comparison, Method
from experiments.analysis.report.document import Animation, Picture

CURVES, MOVIE = "training_curves.png", "animation.gif"


def training_curves(comparison: Comparison) -> Picture | None:
    """Validation NLL of every method that has a record of it; None where none has."""
    logged = {m.label: m.folder for m in comparison.methods if m.folder is not None and _validated(m)}
    if not logged:
        return None
    colours = [naming.colour(comparison, label) for label in logged]
    plot_curves(logged, comparison.folder / plots.FOLDER / CURVES, colours)
    alt = f"Validation NLL against tokens seen and time trained, a curve for each of {naming.listed(list(logged))}"
    return Picture(CURVES, alt, "Validation NLL against training tokens (above) and training time (below).")


def animation(comparison: Comparison) -> Animation | None:
    """The traces of all methods on one clock; None without traces."""
    traces = [comparison.traces[m.label] for m in comparison.methods if m.label in comparison.traces]
    if not traces:
        return None
    fps = comparison.about.get("fps", 12)
    write_gif(traces, comparison.folder / plots.FOLDER / MOVIE, fps=fps)
    names = naming.listed([trace.method for trace in traces])
    caption = "One text of each method as it is written; the clock counts forwards of the network."
    return Animation(
        html_fragment(traces, fps=fps), Picture(MOVIE, f"Animation of {names} writing a text each", caption)
    )


def _validated(method: Method) -> bool:
    """Whether a run has logged a finite validation NLL."""
    return method.folder is not None and (method.folder / "metrics.csv").is_file() and validated(method.folder)
