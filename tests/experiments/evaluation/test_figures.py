"""Figures as a line for people."""

from experiments.evaluation.figures import as_line


def test_errors_kind_and_part_stand_with_their_figures() -> None:
    """Catches an error that is printed as a figure, a bound that reads as exact, and a part that reads as the whole."""
    figures = {"test/nll": 2.0, "test/nll_error": 0.25, "test/bpc": 3.0}
    assert as_line(figures, kind="exact", part="") == "test/nll 2.0000 ± 0.2500  test/bpc 3.0000"
    said = as_line(figures, kind="bound", part="the first 2 of 7 batches")
    assert said.endswith("test/bpc 3.0000 (bound, partial: the first 2 of 7 batches)")
