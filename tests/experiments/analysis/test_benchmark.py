"""The figures of a benchmark from its files: rows, tables and plots."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.analysis.benchmark import (
    DECODING,
    FAILED,
    LEFT_OUT,
    TRAINING,
    Row,
    draw,
    main,
    read_rows,
    tables,
    write_rows,
)
from experiments.analysis.files import read_table

CPU = {"device": "cpu, 2 threads", "dtype": "float32", "peak_flops": 6e10, "sheet_flops": None}
GPU = {"device": "NVIDIA H100 80GB HBM3", "dtype": "bfloat16", "peak_flops": 7e14, "sheet_flops": 9.894e14}


def trained(method: str, mode: str, **more: object) -> Row:
    found = {
        **{"tokens_per_second": 12345.6, "bare_tokens_per_second": 13000.0, "ratio": 0.95, "ratio_low": 0.9},
        **{"ratio_high": 1.0, "flops": 1e9, "mfu": 0.4, "bare_mfu": 0.42, "operations": 298, "rounds": [[1.0, 2.0]]},
    }
    return Row(TRAINING, method, "tiny", 32, 64, mode=mode, **(found | more))


def written(method: str, decoder: str, texts: int, speed: float) -> Row:
    found = {"tokens_per_second": speed, "tokens_per_forward": 1.0, "operations": 99, "rounds": [speed]}
    return Row(DECODING, method, "tiny", texts, 64, decoder=decoder, **found)


ROWS = [
    written("gpt", "autoregressive", 1, 500.0),
    written("gpt", "autoregressive", 16, 5000.0),
    written("df_lm", "pyramid", 1, 20.0),
    Row(DECODING, "df_lm", "tiny", 256, 64, decoder="pyramid", status=LEFT_OUT, reason="a round would take 99 s"),
    trained("gpt", "eager"),
    trained("gpt", "compiled", compile_seconds=31.0),
    Row(
        TRAINING,
        "df_lm",
        "tiny",
        32,
        64,
        mode="compiled",
        status=FAILED,
        reason="the compiled loss is 4, and 5 without",
    ),
]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    """Catches a figure that is rounded or lost on the way, and a file that does not open as a table."""
    write_rows(tmp_path, CPU, ROWS)
    about, rows = read_rows(tmp_path)
    assert about == CPU and rows == [replace(row, rounds=list(row.rounds)) for row in ROWS]
    _, lines = read_table(tmp_path / "benchmark.csv")
    assert [line["method"] for line in lines] == [row.method for row in ROWS]
    assert lines[4]["tokens_per_second"] == "12345.6" and lines[4]["memory_gib"] == "" and "rounds" not in lines[4]
    assert lines[6]["reason"] == "the compiled loss is 4, and 5 without"


def test_tables_show_what_is_known_and_say_what_is_not() -> None:
    """Catches a failed cell with a figure, one that is left out without a word, and columns without entries."""
    shown = tables(CPU, ROWS)
    assert "cpu, 2 threads: peak 0.06 TFLOP/s in float32" in shown and "data sheet" not in shown
    assert "12,346" in shown and "40.0%" in shown and "operations" in shown
    assert "GiB" not in shown and "kernels" not in shown and "waits" not in shown
    assert "df_lm/tiny/compiled: failed: the compiled loss is 4, and 5 without" in shown
    assert "left out, as a round would take 99 s: df_lm/tiny/pyramid/256" in shown


def test_a_gpu_has_columns_of_its_own() -> None:
    """Catches operations of a CPU among kernels of a GPU."""
    shown = tables(GPU, [trained("gpt", "graphs", operations=None, kernels=79, waits=0, memory_gib=7.25)])
    assert "peak 700 TFLOP/s in bfloat16" in shown and "; 989 by its data sheet" in shown
    assert all(word in shown for word in ("kernels", "waits", "7.25", "79")) and "operations" not in shown


def test_a_higher_peak_lowers_shares_alone() -> None:
    """Catches rows that keep a share of a peak that neighbours had hidden."""
    row = ROWS[4].of_higher_peak(0.5)
    assert (row.mfu, row.bare_mfu, row.tokens_per_second) == (0.2, 0.21, 12345.6)
    assert ROWS[0].of_higher_peak(0.5) == ROWS[0]


def test_figures_of_the_summary() -> None:
    """Catches cells of one name, and figures that are not there."""
    assert ROWS[4].figures == {
        "benchmark/gpt/tiny/eager/tokens_per_second": 12345.6,
        "benchmark/gpt/tiny/eager/ratio": 0.95,
        "benchmark/gpt/tiny/eager/mfu": 0.4,
    }
    assert ROWS[1].figures == {"benchmark/gpt/tiny/autoregressive/16/tokens_per_second": 5000.0}
    assert ROWS[3].figures == {}


def test_plots_are_drawn_from_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a plot that needs the run, and one of rows that were not measured."""
    write_rows(tmp_path, CPU, ROWS)
    assert main([str(tmp_path)]) == 0
    for name in ("training", "decoding"):
        assert (tmp_path / "plots" / f"benchmark_{name}.png").stat().st_size > 10_000
    assert "autoregressive" in capsys.readouterr().out
    assert draw(tmp_path, CPU, [ROWS[3], ROWS[6]]) == []


def test_a_folder_without_rows_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback over another run's folder, or a file of another version."""
    assert main([str(tmp_path)]) == 1
    assert "give the folder of a run of experiment=benchmark" in capsys.readouterr().err
    (tmp_path / "benchmark.json").write_text('{"rows": [{"speed": 1}]}', encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    assert "run experiment=benchmark again" in capsys.readouterr().err
