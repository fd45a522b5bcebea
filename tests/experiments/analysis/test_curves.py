"""Training curves: every value at its step, its tokens and its time; nothing drawn that was not logged."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from experiments.analysis import curves, plots, records


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that would be saved, by file name: no test waits for pixels but one."""
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(Figure, "savefig", lambda self, out: figures.update({out.name: self}))
    return figures


def run_folder(folder: Path, columns: dict[str, list[float | None]], **summary: Any) -> Path:
    """A run that logs at steps 10, 20, ..., validation in rows of its own; None was not logged."""
    folder.mkdir(parents=True)
    count = max(map(len, columns.values()))
    lines = [",".join(["step", *columns])]
    for i, part in itertools.product(range(count), ("train/", "val/")):
        cells = [str(10 * i + 10)]
        for name, values in columns.items():
            value = values[i] if name.startswith(part) and i < len(values) else None
            cells.append("" if value is None else str(value))
        lines.append(",".join(cells))
    (folder / "metrics.csv").write_text("\n".join(lines), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def points(ax: Axes) -> list[list[list[float]]]:
    return [line.get_xydata().tolist() for line in ax.lines]


def said(ax: Axes) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


def test_runs_over_tokens_and_over_time(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches runs of unlike batch size compared by steps, time that is taken for steps, a run in another's colour, and
    a bound drawn like an exact likelihood."""
    columns = {"train/tokens": [80, 160], "train/seconds": [60.0, 150.0], "val/nll": [3.0, 2.0]}
    exact = run_folder(tmp_path / "a", columns, likelihood_kind="exact")
    other = {"train/tokens": [40, 80], "train/seconds": [30.0, 300.0], "val/nll": [3.5, 2.5]}
    bound = run_folder(tmp_path / "b", other, likelihood_kind="bound")
    curves.plot_curves({"GPT": exact, "masked": bound / "metrics.csv"}, tmp_path / "curves.png")
    tokens, time = drawn["curves.png"].axes
    assert points(tokens) == [[[80, 3.0], [160, 2.0]], [[40, 3.5], [80, 2.5]]]
    assert points(time) == [[[1.0, 3.0], [2.5, 2.0]], [[0.5, 3.5], [5.0, 2.5]]]
    for ax in (tokens, time):
        assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
        assert [line.get_color() for line in ax.lines] == list(plots.COLOURS[:2])
    assert tokens.get_xlabel() == "training tokens seen"
    assert time.get_xlabel() == "training time (minutes, validation not counted)"
    assert "GPT\nbest 2.000 (exact)" in said(tokens) and "GPT\n2.5 minutes" in said(time)
    assert "masked\nbest 2.500 (upper bound)" in said(tokens) and "masked\n5 minutes" in said(time)


@pytest.mark.parametrize("seconds", [0.5, 90.0, 150.0, 9000.0, 4e6])
def test_times_on_the_axis_are_plain_numbers(seconds: float, tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches "600m minutes" for 0.6 of them."""
    columns: dict[str, list[float | None]] = {"train/seconds": [seconds / 2, seconds], "val/nll": [3.0, 2.0]}
    curves.plot_curves({"a": run_folder(tmp_path / "a", columns)}, tmp_path / "curves.png")
    axis = drawn["curves.png"].axes[1].xaxis
    assert all(re.fullmatch(r"−?-?[\d,.]+", axis.get_major_formatter()(tick)) for tick in axis.get_majorticklocs())


def test_seconds_are_those_of_the_step(tmp_path: Path) -> None:
    """Catches the time of the nearest row for that of a validation between two, and one made up behind the last."""
    metrics = records.read_metrics(run_folder(tmp_path / "a", {"train/seconds": [4.0, None, 8.0, None]}))
    seconds, derived = curves.seconds_at(metrics, np.array([0, 5, 10, 20, 25, 30, 31]))
    assert seconds is not None and not derived
    np.testing.assert_allclose(seconds, [0, 2, 4, 6, 7, 8, np.nan])


def test_seconds_of_runs_that_did_not_log_them(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches derived times that are not said to be, times of the mean speed, and a panel without any curve."""
    columns = {"train/tokens": [100, 200, 400], "val/nll": [3.0, 2.5, 2.0]}
    steps = {"step": np.array([10.0, 20, 40]), "train/tokens": np.array([100.0, 200, 400])}
    seconds, derived = curves.seconds_at(steps | {"train/tokens_per_second": np.array([10.0, 50, 5])}, steps["step"])
    assert derived and seconds is not None and seconds.tolist() == [10.0, 12.0, 52.0]
    fast = run_folder(tmp_path / "fast", columns | {"train/tokens_per_second": [10.0] * 3})
    bare = run_folder(tmp_path / "bare", columns)
    curves.plot_curves({"fast": fast, "bare": bare}, tmp_path / "two.png")
    tokens, time = drawn["two.png"].axes
    assert len(tokens.lines) == 2 and len(time.lines) == 1 and time.lines[0].get_color() == plots.COLOURS[0]
    assert "* summed up from tokens per second" in time.get_xlabel() and "fast\n40 seconds *" in said(time)
    assert "no times were logged by bare" in time.get_xlabel()
    curves.plot_curves({"bare": bare}, tmp_path / "one.png")
    assert len(drawn["one.png"].axes) == 1


def test_a_run_without_tokens_is_drawn_over_steps(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches one run over tokens and the other over steps on one axis."""
    a = run_folder(tmp_path / "a", {"train/tokens": [80, 160], "val/nll": [3.0, 2.0]})
    b = run_folder(tmp_path / "b", {"val/nll": [3.0, float("inf")]})
    curves.plot_curves({"a": a, "b": b}, tmp_path / "curves.png")
    (ax,) = drawn["curves.png"].axes
    assert points(ax) == [[[10, 3.0], [20, 2.0]], [[10, 3.0]]] and ax.get_xlabel() == "training steps"


@pytest.mark.parametrize("name", ["run", "3: algorithm=masked_diffusion algorithm.masking.schedule=cosine seed=3"])
@pytest.mark.parametrize(
    "ends",
    [[2.0, 2.0, 2.0], [1.0, 1.01, 3.0], [1.0, 3.0, 2.99], [3.0, 3.0, 1.0], [5.0, 5.0, 4.99], [2.0] * 12],
    ids=str,
)
def test_labels_do_not_overlap(tmp_path: Path, drawn: dict[str, Figure], ends: list[float], name: str) -> None:
    """Catches labels written over each other where curves end close together, pushed off the picture, or so wide that
    no room is left for the curves or the notes below them."""
    columns = {"train/tokens": [8, 16], "train/tokens_per_second": [1.0, 1.0]}
    runs = {f"{name} {i}": run_folder(tmp_path / str(i), columns | {"val/nll": [4.0, y]}) for i, y in enumerate(ends)}
    curves.plot_curves(runs, tmp_path / "curves.png")
    figure = drawn["curves.png"]
    figure.draw_without_rendering()
    for ax in figure.axes:
        boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
        assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(boxes))
        assert all(0 <= text.get_position()[1] <= 1 for text in ax.texts)
        assert boxes[0].y0 >= 0 and boxes[-1].y1 <= figure.bbox.y1 and max(box.x1 for box in boxes) <= figure.bbox.x1
        assert ax.bbox.width > figure.bbox.width / 3 and ax.xaxis.label.get_window_extent().x0 >= 0


def test_training_shows_both_metrics_with_units(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches swapped series, a mark that is not at the best point, a token axis of another scale."""
    columns = {
        "train/loss": [4.0, 3.0, 2.0, 2.5],
        "train/tokens": [80, 160, 240, 320],
        "val/nll": [3.5, 2.25, 2.75],
        "val/nll_error": [0.1, 0.05, 0.1],
    }
    run = run_folder(tmp_path / "run", columns, likelihood_kind="bound")
    curves.plot_training(run / "metrics.csv", tmp_path / "curve.png")
    (ax,) = drawn["curve.png"].axes
    raw, smooth, validation, best = points(ax)
    assert raw == smooth == [[10, 4.0], [20, 3.0], [30, 2.0], [40, 2.5]]
    assert validation == [[10, 3.5], [20, 2.25], [30, 2.75]] and best == [[20, 2.25]]
    assert "validation NLL (upper bound)\nbest 2.250 ± 0.050 at step 20" in said(ax)
    assert "training loss\nat the end 2.500" in said(ax)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training steps", "nats per token")
    drawn["curve.png"].draw_without_rendering()  # which brings the axis of tokens to that of steps
    (top,) = ax.child_axes
    assert top.get_xlim() == pytest.approx(tuple(8 * x for x in ax.get_xlim()))
    assert top.get_xlabel() == "training tokens seen"


def test_a_loss_in_another_unit_has_a_panel_of_its_own(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches a squared error drawn on the axis of nats."""
    columns = {"train/loss": [0.9, 0.8], "val/nll": [50.0, 40.0]}
    curves.plot_training(
        run_folder(tmp_path / "run", columns, loss_unit="weighted squared error"), tmp_path / "curve.png"
    )
    loss, likelihood = drawn["curve.png"].axes
    assert (loss.get_ylabel(), likelihood.get_ylabel()) == ("weighted squared error", "nats per token")
    assert loss.lines[0].get_ydata().tolist() == [0.9, 0.8]
    assert likelihood.lines[0].get_ydata().tolist() == [50.0, 40.0]


def test_training_without_tokens_or_validation(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches a crash in a run too short to validate, and an invisible curve of a single point."""
    curves.plot_training(run_folder(tmp_path / "run", {"train/loss": [4.0]}), tmp_path / "curve.png")
    (ax,) = drawn["curve.png"].axes
    assert not ax.child_axes and ax.lines[-1].get_marker() == "o"
    assert "validation" not in said(ax)


def test_a_diverged_run_is_drawn_as_far_as_it_got(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches limits of inf, with which matplotlib refuses to draw, after a loss overflowed."""
    inf = float("inf")
    run = run_folder(tmp_path / "run", {"train/loss": [4.0, 3.0, inf], "val/nll": [3.5, inf]})
    curves.plot_training(run, tmp_path / "curve.png")
    (ax,) = drawn["curve.png"].axes
    assert ax.get_ylim()[1] < 5 and points(ax)[1:3] == [[[10, 4.0], [20, 3.0]], [[10, 3.5]]]
    drawn["curve.png"].draw_without_rendering()


def flow_run(folder: Path, losses: list[float | None], unit: str = "nats per token + flow loss") -> Path:
    columns: dict[str, list[float | None]] = {
        "train/loss": losses,
        "train/masked": [4.0, 3.0, 2.0, 1.0],
        "train/flow": [None, 0.5, 0.25, 0.25],  # the last value is logged on after the flow has ended
        "train/flow_weight": [0.0, 0.1, 0.1, 0.0],
        "train/flow_active": [1.0, 1.0, 1.0, 0.0],
        "train/tokens": [80, 160, 240, 320],
        "val/nll": [None, 3.5, None, 2.5],
    }
    return run_folder(folder, columns, loss_unit=unit, likelihood_kind="bound")


def test_the_parts_of_a_flow_loss(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches parts on the axis of another unit, and a flow loss that goes on where none was computed."""
    curves.plot_training(flow_run(tmp_path / "run", [4.0, 3.5, 2.5, 1.0]), tmp_path / "run.png")
    whole, nats, flow, weight = drawn["run.png"].axes
    assert [ax.get_ylabel() for ax in (whole, nats, flow, weight)] == [
        "nats per token + flow loss",
        "nats per token",
        "flow loss",
        "weight",
    ]
    assert points(whole)[-1] == [[10, 4.0], [20, 3.5], [30, 2.5], [40, 1.0]]
    assert points(nats)[-2:] == [[[20, 3.5], [40, 2.5]], [[40, 2.5]]]
    assert points(nats)[0] == [[10, 4.0], [20, 3.0], [30, 2.0], [40, 1.0]]
    assert points(flow)[-1] == [[20, 0.5], [30, 0.25]]
    assert points(weight)[-1] == [[10, 0.0], [20, 0.1], [30, 0.1], [40, 0.0]] and weight.get_ylim()[0] == 0
    assert whole.get_xlim() == weight.get_xlim() and weight.get_xlabel() == "training steps"
    assert "validation NLL (upper bound)\nbest 2.500 at step 40" in said(nats)
    drawn["run.png"].draw_without_rendering()  # which brings the axis of tokens to that of steps
    assert whole.child_axes[0].get_xlim() == pytest.approx(tuple(8 * x for x in whole.get_xlim()))


def test_a_loss_that_is_one_of_its_parts_is_drawn_once(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches the same curve in two panels, and a loss per masked token on the axis of a likelihood."""
    curves.plot_training(flow_run(tmp_path / "run", [4.0, 3.0, 2.0, 1.0]), tmp_path / "run.png")
    assert [ax.get_ylabel() for ax in drawn["run.png"].axes] == ["nats per token", "flow loss", "weight"]
    assert "training loss:\nmasked cross-entropy" in said(drawn["run.png"].axes[0])
    unit = "nats per masked token + flow loss"
    curves.plot_training(flow_run(tmp_path / "other", [4.0, 3.0, 2.0, 1.0], unit), tmp_path / "other.png")
    labels = [ax.get_ylabel() for ax in drawn["other.png"].axes]
    assert labels == ["nats per masked token", "flow loss", "weight", "nats per token"]


def test_the_parts_are_those_of_the_columns(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches a list of known parts, which leaves out what a method logs, and cost that is drawn as a part."""
    columns: dict[str, list[float | None]] = {
        "train/loss": [4.0, 3.0],
        "train/ce": [4.0, 3.0],
        "train/clean_ce": [2.5, 2.0],
        "train/noisy_ce": [3.5, 2.5],
        "train/mse": [0.5, 0.25],
        "train/charm": [7.0, 8.0],
        **{f"train/{name}": [1.0, 2.0] for name in ("lr", "grad_norm", "tokens", "seconds", "tokens_per_second")},
    }
    curves.plot_training(run_folder(tmp_path / "run", columns), tmp_path / "run.png")
    nats, squared, own = drawn["run.png"].axes
    assert [ax.get_ylabel() for ax in (nats, squared, own)] == [
        "nats per token",
        "weighted squared error",
        "charm loss",
    ]
    texts = [text.get_text().split("\nat the end")[0] for text in nats.texts]
    assert texts == ["clean cross-entropy", "noisy cross-entropy", "training loss:\ncross-entropy"]
    assert points(nats)[1::2] == [[[10, 4.0], [20, 3.0]], [[10, 2.5], [20, 2.0]], [[10, 3.5], [20, 2.5]]]
    mixed = {"train/loss": [1.5, 1.0], "train/mse": [1.0, 0.7], "train/ce": [0.5, 0.3]}
    curves.plot_training(
        run_folder(tmp_path / "mixed", mixed, loss_unit="weighted squared error + nats"), tmp_path / "mixed.png"
    )
    assert [ax.get_ylabel() for ax in drawn["mixed.png"].axes] == [
        "weighted squared error + nats",
        "weighted squared error",
        "nats per token",
    ]


def test_a_run_without_parts_has_one_panel(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches an empty panel of a flow, and a batch loss hidden behind its mean."""
    losses = [4.0 + (-1) ** i for i in range(50)]
    curves.plot_training(
        run_folder(tmp_path / "run", {"train/loss": losses, "val/nll": [None, 3.0]}), tmp_path / "a.png"
    )
    (ax,) = drawn["a.png"].axes
    raw, smooth = ax.lines[:2]
    assert raw.get_ydata().tolist() == losses and raw.get_alpha() < 0.5
    np.testing.assert_allclose(smooth.get_ydata(), curves.smoothed(np.array(losses)))
    assert "training loss, smoothed" in said(ax) and ax.get_ylabel() == "nats per token"


def test_nothing_to_draw_is_one_sentence(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    """Catches an empty picture written without a word, and a run said to have a curve which has none."""
    run = run_folder(tmp_path / "run", {"train/loss": [float("inf")], "val/nll": [float("nan"), float("inf")]})
    with pytest.raises(ValueError, match="there is no curve to draw"):
        curves.plot_training(run, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"run 'x' .* holds no finite 'val/nll'"):
        curves.plot_curves({"x": run}, tmp_path / "b.png")
    with pytest.raises(ValueError, match="got no runs"):
        curves.plot_curves({}, tmp_path / "b.png")
    assert not drawn and not list(tmp_path.glob("*.png"))
    assert not curves.validated(run) and not curves.validated(run_folder(tmp_path / "c", {"train/loss": [1.0]}))
    assert curves.validated(run_folder(tmp_path / "d", {"val/nll": [2.0, float("inf")]}))


def test_smoothing_keeps_straight_lines_and_averages_noise() -> None:
    """Catches a lag in the steep start, a window off by one, an end that follows the last noisy value."""
    line = np.arange(100.0)
    np.testing.assert_allclose(curves.smoothed(line)[:-2], line[:-2])  # centred: no lag
    noise = np.tile([1.0, -1.0], 200)
    assert np.abs(curves.smoothed(noise)[20:]).max() < 0.1
    np.testing.assert_allclose(curves.smoothed(line[:10]), line[:10])  # too short to smooth
    assert len(curves.smoothed(np.array([]))) == 0


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches runs that are called alike and overwrite each other's pictures, and a picture that cannot be drawn."""
    monkeypatch.undo()
    columns = {"train/loss": [4.0, 3.0], "train/tokens": [8, 16], "train/seconds": [1, 2], "val/nll": [4.0, 3.5]}
    runs = [run_folder(tmp_path / name, columns, algorithm="gpt") for name in ("one", "two")]
    assert curves.names_of([runs[0]]) == {"gpt": runs[0]}
    assert curves.main([*map(str, runs), "--out", str(tmp_path / "out")]) == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"training_one.png", "training_two.png", "curves.png"}
    assert {Path(line).name for line in capsys.readouterr().out.split()} == written
    assert imread(tmp_path / "out" / "curves.png").shape[:2] == (1380, 1350)
    assert imread(tmp_path / "out" / "training_one.png").shape[:2] == (750, 1350)
    assert curves.main([str(tmp_path / "none"), "--out", str(tmp_path)]) == 1
    assert curves.main([str(runs[0]), str(runs[0]), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 2
