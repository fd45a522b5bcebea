"""The house style and the scheduling matrix: what is drawn stands at the right place."""

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


def test_a_figure_has_its_layout_and_is_written_where_nothing_failed(tmp_path: Path) -> None:
    """Catches axes in another order, a picture of another size, and half a picture left by an error."""
    with plots.plot(tmp_path / "deep" / "a.png", rows=2, columns=3, size=(4, 2), sharex=True) as (figure, axes):
        assert [ax.get_subplotspec().num1 for ax in axes] == list(range(6))
        axes[0].set_xlim(3, 4)
        assert axes[5].get_xlim() == (3, 4) and figure.axes == axes
    assert imread(tmp_path / "deep" / "a.png").shape[:2] == (300, 600)
    with pytest.raises(ZeroDivisionError), plots.plot(tmp_path / "b.png"):
        _ = 1 / 0
    assert not (tmp_path / "b.png").exists()


def test_the_start_of_a_curve_does_not_flatten_the_rest(tmp_path: Path) -> None:
    """Catches a height that a fresh model's loss sets, one that cuts off what comes later, and a weight not from 0."""
    curve = plots.Curve(np.arange(101), np.array([90.0, 80.0, *np.linspace(4, 2, 99)]), "loss", "black")
    with plots.plot(tmp_path / "a.png", columns=2) as (_, (ax, other)):
        plots.draw_curves(ax, [curve])
        plots.draw_curves(other, [curve], from_zero=True)
    low, high = ax.get_ylim()
    assert 1.5 < low < 2 and 4 < high < 4.5 and other.get_ylim() == (0, high)


def test_scheduling_matrix_has_near_left_and_time_downwards(tmp_path: Path, drawn: list[Figure]) -> None:
    """Catches a flipped or transposed matrix: the last step is clean on the left and noisy on the right."""
    matrix = np.array([[4, 4, 4], [2, 4, 4], [0, 2, 4]])
    plots.plot_map(matrix, tmp_path / "matrix.png", top=4, x_label="x", y_label="y", value_label="level")
    ax, bar = drawn[0].axes
    picture = imread(tmp_path / "matrix.png")[::-1]  # from the bottom, as matplotlib counts

    def brightness(row: int, position: int) -> float:
        x, y = ax.transData.transform((position + 0.2, row + 0.2)).astype(int)
        return float(picture[y, x, :3].mean())

    levels = np.array([[brightness(row, position) for position in range(3)] for row in range(3)])
    for clean, half, full in [((2, 0), (1, 0), (0, 0)), ((2, 0), (2, 1), (2, 2))]:
        assert levels[clean] > levels[half] > levels[full]
    assert bar.get_ylabel() == "level" and bar.get_ylim() == (0, 4)


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (np.zeros(3), r"not \(3,\)"),
        (np.zeros((0, 3)), r"not \(0, 3\)"),
        (np.array([[5, -1]]), "numbers from -1 to 5"),
    ],
)
def test_a_bad_matrix_is_one_sentence(tmp_path: Path, matrix: np.ndarray, sentence: str) -> None:
    """Catches levels beyond the colour bar, which would be drawn in the colour of its end."""
    with pytest.raises(ValueError, match=sentence):
        plots.plot_map(matrix, tmp_path / "matrix.png", top=4, x_label="x", y_label="y", value_label="level")
