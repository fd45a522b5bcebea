"""Files of traces: whole round trips, refusals, and writing that loses nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.analysis import trace
from experiments.analysis.trace import TraceRecord, changes, read_trace, trace_files, write_trace

ODD = ["<b>", "\n", "", "\x1b[31m", "\ud800", "世", 'say "hi"', "</script>"]


def writing(text: list[str], *, given: int = 0, scale: str = "states", step: int = 1, name: str = "m") -> TraceRecord:
    """A record of `text` being decided from left to right, `step` tokens a forward, each at 0.5 one state earlier."""
    L = len(text)
    done = np.arange(given, L + step, step).clip(max=L)  # tokens decided in each state
    place = np.arange(L)
    levels = np.where(place < done[:, None], 0.0, np.where(place < done[:, None] + step, 0.5, 1.0))
    levels[0, given:] = 1.0
    tokens = [[token if place < count else "?" for place, token in enumerate(text)] for count in done]
    forwards = np.arange(len(done))
    rate = (L - given) / forwards[-1]
    return TraceRecord(name, "rule", "".join(text[:given]), scale, place < given, tokens, levels, forwards, 0.25, rate)


def assert_same(a: TraceRecord, b: TraceRecord) -> None:
    for name in ("method", "decoder", "prompt", "scale", "tokens", "seconds", "tokens_per_forward"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("given", "levels", "forwards"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("scale", ["states", "noise"])
def test_a_record_comes_back_as_it_was(tmp_path: Path, scale: str) -> None:
    """Catches changes applied to the wrong state or position, rounded levels, and tokens that JSON or UTF-8 cannot
    hold."""
    record = writing(ODD, given=2, scale=scale)
    record.levels[1, -1] = 1 / 3
    write_trace(tmp_path / "traces" / "m.json", record)
    assert_same(read_trace(tmp_path / "traces" / "m.json"), record)


def test_changes_are_what_differs() -> None:
    """Catches a file that repeats what stays, and a level that changes without its token being missed."""
    tokens, levels = [["a", "b"], ["a", "c"], ["a", "c"]], np.array([[0, 1], [0, 0.5], [0, 0]])
    record = replace(writing(["a", "c"]), tokens=tokens, levels=levels)
    assert changes(record) == [[(1, "c", 0.5)], [(1, "c", 0.0)]]


def edited(content: dict, **new: object) -> str:
    return json.dumps(content | new)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ({"schema": 2}, "is a trace of schema 2, this program reads 1: record it again"),
        ({"scale": "colours"}, "is a damaged trace .*'colours': it must be one of states, noise"),
        ({"given": [True]}, "is a damaged trace .*levels of the shape"),
        ({"given": []}, "at least one state and one token"),
        ({"forwards": None}, "is a damaged trace"),
        ({"forwards": [0, 1]}, "as many numbers that never fall"),
        ({"forwards": [0, 3, 2, 3, 4]}, "as many numbers that never fall"),
        ({"changes": [[[7, "a", 0.0]]]}, "is a damaged trace"),
        ({"changes": [[[0, "a", 1.5]]], "forwards": [0, 1]}, r"a level outside of \[0, 1\]"),
        ({"changes": [[[0, "a", "high"]]], "forwards": [0, 1]}, "is a damaged trace"),
        ({"changes": 7}, "is a damaged trace"),
        ({"first": {}}, "is a damaged trace .lacks 'tokens'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, new: dict, words: str) -> None:
    """Catches a trace of another schema or a damaged one that is read in part, or ends in a traceback."""
    path = tmp_path / "m.json"
    write_trace(path, writing(["a", "b", "c", "d"]))
    path.write_text(edited(json.loads(path.read_text(encoding="utf-8")), **new), encoding="utf-8")
    with pytest.raises(ValueError, match=words) as caught:
        read_trace(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"rows": []}', '{"schema": 1', "\x00\xff"])
def test_what_is_no_trace_is_refused(tmp_path: Path, content: str) -> None:
    """Catches other JSON and no JSON that end in a KeyError or a UnicodeDecodeError."""
    path = tmp_path / "m.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"m\.json is no trace"):
        read_trace(path)


def test_traces_are_found(tmp_path: Path) -> None:
    """Catches a run folder, its folder of traces or a single file that is not understood, and a wrong path without a
    remedy."""
    with pytest.raises(FileNotFoundError, match="there are no traces in"):
        trace_files(tmp_path)
    for name in ("b", "a"):
        write_trace(tmp_path / "traces" / f"{name}.json", writing(["x"]))
    both = [tmp_path / "traces" / "a.json", tmp_path / "traces" / "b.json"]
    assert trace_files(tmp_path) == trace_files(tmp_path / "traces") == both
    assert trace_files(both[0]) == both[:1]
    with pytest.raises(FileNotFoundError, match=r"there is no trace .*: record one"):
        read_trace(trace_files(tmp_path / "c.json")[0])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a trace that is truncated when the disk fills up, and temporary files left behind."""
    path = tmp_path / "m.json"
    write_trace(path, writing(["a", "b"]))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trace.Path, "replace", full)
    with pytest.raises(OSError, match=r"cannot write .*m\.json \(No space left on device\): free some space"):
        write_trace(path, writing(["c"]))
    assert read_trace(path).tokens[-1] == ["a", "b"] and list(tmp_path.iterdir()) == [path]
