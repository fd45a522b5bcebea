"""Pictures: what is drawn stands at the right place."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from experiments.analysis import plots


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, for a look at their contents."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, out: (figures.append(self), save(self, out)))
    return figures


def run_folder(
    folder: Path, losses: list[float], nlls: list[float], kind: str | None = None, tokens: bool = True
) -> Path:
    """A run that logs its loss at steps 10, 20, ... and validates at each of the first len(nlls) of them."""
    folder.mkdir(parents=True)
    lines = ["step,train/loss,train/tokens,val/nll"]
    for i, loss in enumerate(losses):
        lines.append(f"{10 * i + 10},{loss},{80 * (i + 1) if tokens else ''},")
    lines += [f"{10 * i + 10},,,{nll}" for i, nll in enumerate(nlls)]
    (folder / "metrics.csv").write_text("\n".join(lines))
    if kind:
        (folder / "summary.json").write_text(json.dumps({"likelihood_kind": kind}))
    return folder


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.axes[0].texts)


def test_training_curve_shows_both_metrics_with_units(tmp_path: Path, drawn: list[Figure]) -> None:
    """Catches swapped series, a mark that is not at the best point, a token axis of another scale."""
    run = run_folder(tmp_path / "run", [4.0, 3.0, 2.0, 2.5], [3.5, 2.25, 2.75], kind="bound")
    plots.plot_training_curve(run / "metrics.csv", tmp_path / "deep" / "curve.png")
    assert imread(tmp_path / "deep" / "curve.png").shape[:2] == (750, 1350)
    ax = drawn[0].axes[0]
    raw, smooth, validation, best = (line.get_xydata().tolist() for line in ax.lines)
    assert raw == smooth == [[10, 4.0], [20, 3.0], [30, 2.0], [40, 2.5]]
    assert validation == [[10, 3.5], [20, 2.25], [30, 2.75]] and best == [[20, 2.25]]
    assert "validation NLL (upper bound)\nbest 2.250 at step 20" in texts(drawn[0])
    assert "training loss\nat the end 2.500" in texts(drawn[0])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training steps", "nats per token")
    (top,) = ax.child_axes
    low, high = ax.get_xlim()
    assert top.get_xlim() == pytest.approx((8 * low, 8 * high))


def test_a_loss_in_another_unit_has_a_panel_of_its_own(tmp_path: Path, drawn: list[Figure]) -> None:
    """Catches a squared error drawn on the axis of nats."""
    run = run_folder(tmp_path / "run", [0.9, 0.8], [50.0, 40.0])
    (run / "summary.json").write_text(json.dumps({"loss_unit": "weighted squared error"}))
    plots.plot_training_curve(run / "metrics.csv", tmp_path / "curve.png")
    loss, likelihood = drawn[0].axes
    assert (loss.get_ylabel(), likelihood.get_ylabel()) == ("weighted squared error", "nats per token")
    assert loss.lines[0].get_ydata().tolist() == [0.9, 0.8]
    assert likelihood.lines[0].get_ydata().tolist() == [50.0, 40.0]


def test_training_curve_without_tokens_or_validation(tmp_path: Path, drawn: list[Figure]) -> None:
    """Catches a crash in a run too short to validate, and an invisible curve of a single point."""
    run = run_folder(tmp_path / "run", [4.0], [], tokens=False)
    plots.plot_training_curve(run / "metrics.csv", tmp_path / "curve.png")
    ax = drawn[0].axes[0]
    assert not ax.child_axes and ax.lines[-1].get_marker() == "o"
    assert "validation" not in texts(drawn[0])


def test_a_diverged_run_is_drawn_as_far_as_it_got(tmp_path: Path, drawn: list[Figure]) -> None:
    """Catches limits of inf, with which matplotlib refuses to draw, after a loss overflowed."""
    run = run_folder(tmp_path / "run", [4.0, 3.0, float("inf")], [3.5, float("inf")])
    plots.plot_training_curve(run / "metrics.csv", tmp_path / "curve.png")
    assert drawn[0].axes[0].get_ylim()[1] < 5


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    """Catches an empty picture written without a word."""
    run = run_folder(tmp_path / "run", [float("inf")], [])
    with pytest.raises(ValueError, match="no curve to draw"):
        plots.plot_training_curve(run / "metrics.csv", tmp_path / "curve.png")
    with pytest.raises(ValueError, match=r"run 'a' .* holds no finite 'val/nll'"):
        plots.plot_comparison({"a": run}, tmp_path / "comparison.png")
    with pytest.raises(ValueError, match="got no runs"):
        plots.plot_comparison({}, tmp_path / "comparison.png")
    assert not list(tmp_path.glob("*.png"))


def test_comparison_is_over_tokens_and_tells_bounds_apart(tmp_path: Path, drawn: list[Figure]) -> None:
    """Catches runs of unlike batch size compared by steps, and a bound drawn like an exact likelihood."""
    gpt = run_folder(tmp_path / "gpt", [4.0, 3.0], [3.0, 2.0], kind="exact")
    df = run_folder(tmp_path / "df", [4.0, 3.0], [3.5, 2.5], kind="bound")
    plots.plot_comparison({"GPT": gpt, "DF": df / "metrics.csv"}, tmp_path / "comparison.png")
    ax = drawn[0].axes[0]
    exact, bound = ax.lines
    assert exact.get_xydata().tolist() == [[80, 3.0], [160, 2.0]] and exact.get_linestyle() == "-"
    assert bound.get_xydata().tolist() == [[80, 3.5], [160, 2.5]] and bound.get_linestyle() == "--"
    assert ax.get_xlabel() == "training tokens seen"
    assert "GPT\nbest 2.000 (exact)" in texts(drawn[0]) and "DF\nbest 2.500 (upper bound)" in texts(drawn[0])


def test_comparison_falls_back_to_steps(tmp_path: Path, drawn: list[Figure]) -> None:
    """Catches one run drawn over tokens and the other over steps on the same axis."""
    a = run_folder(tmp_path / "a", [4.0, 3.0], [3.0, 2.0])
    b = run_folder(tmp_path / "b", [4.0, 3.0], [3.5, 2.5], tokens=False)
    plots.plot_comparison({"a": a, "b": b}, tmp_path / "comparison.png")
    ax = drawn[0].axes[0]
    assert [line.get_xdata().tolist() for line in ax.lines] == [[10, 20], [10, 20]]
    assert ax.get_xlabel() == "training steps"


@pytest.mark.parametrize("ends", [[2.0, 2.0, 2.0], [1.0, 1.01, 3.0], [1.0, 3.0, 2.99], [3.0, 3.0, 1.0]])
def test_labels_do_not_overlap(tmp_path: Path, drawn: list[Figure], ends: list[float]) -> None:
    """Catches labels written over each other where curves end close together, or pushed off the picture."""
    runs = {f"run {i}": run_folder(tmp_path / str(i), [4.0, 3.0], [4.0, end]) for i, end in enumerate(ends)}
    plots.plot_comparison(runs, tmp_path / "comparison.png")
    boxes = sorted((text.get_window_extent() for text in drawn[0].axes[0].texts), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(boxes))
    assert boxes[0].y0 >= 0 and boxes[-1].y1 <= 750 and max(box.x1 for box in boxes) <= 1350


def test_scheduling_matrix_has_near_left_and_time_downwards(tmp_path: Path, drawn: list[Figure]) -> None:
    """Catches a flipped or transposed matrix: the last step is clean on the left and noisy on the right."""
    matrix = np.array([[4, 4, 4], [2, 4, 4], [0, 2, 4]])
    plots.plot_scheduling_matrix(matrix, tmp_path / "matrix.png", sampling_timesteps=4)
    ax, bar = drawn[0].axes
    picture = imread(tmp_path / "matrix.png")[::-1]  # from the bottom, as matplotlib counts

    def brightness(row: int, position: int) -> float:
        x, y = ax.transData.transform((position + 0.2, row + 0.2)).astype(int)
        return float(picture[y, x, :3].mean())

    levels = np.array([[brightness(row, position) for position in range(3)] for row in range(3)])
    for clean, half, full in [((2, 0), (1, 0), (0, 0)), ((2, 0), (2, 1), (2, 2))]:
        assert levels[clean] > levels[half] > levels[full]
    assert bar.get_ylabel() == "noise level, 0 = clean" and bar.get_ylim() == (0, 4)


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (np.zeros(3), r"not \(3,\)"),
        (np.zeros((0, 3)), r"not \(0, 3\)"),
        (np.array([[5, -1]]), "levels -1 to 5"),
    ],
)
def test_a_bad_matrix_is_one_sentence(tmp_path: Path, matrix: np.ndarray, sentence: str) -> None:
    """Catches levels beyond the colour bar, which would be drawn in the colour of its end."""
    with pytest.raises(ValueError, match=sentence):
        plots.plot_scheduling_matrix(matrix, tmp_path / "matrix.png", sampling_timesteps=4)


def test_smoothing_keeps_straight_lines_and_averages_noise() -> None:
    """Catches a lag in the steep start, a window off by one, an end that follows the last noisy value."""
    line = np.arange(100.0)
    np.testing.assert_allclose(plots.smoothed(line)[:-2], line[:-2])  # centred: no lag
    noise = np.tile([1.0, -1.0], 200)
    assert np.abs(plots.smoothed(noise)[20:]).max() < 0.1
    np.testing.assert_allclose(plots.smoothed(line[:10]), line[:10])  # too short to smooth
    assert len(plots.smoothed(np.array([]))) == 0
