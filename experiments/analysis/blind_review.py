"""Blind review: pairs of texts of two settings in random order and on random sides, their key, and what readers chose.

    python -m experiments.analysis.blind_review make RUN --a SETTING --b SETTING [--pairs N] [--seed S]
    python -m experiments.analysis.blind_review score SHEET KEY

From the results.csv and samples.jsonl of a comparison, a sweep or an A/B alone. Give readers blind_review.html or
blind_samples.csv and nothing else of the folder: all other files tell who wrote what.
"""

import argparse
import csv
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.analysis import decoding_table as table
from experiments.analysis.blind_score import COLUMNS, KEY_COLUMNS, Arm, label, read_sheet, report, score
from experiments.analysis.command_line import in_one_sentence
from experiments.analysis.files import read_json, read_records, table_text, write
from experiments.analysis.templates import render

SHEET, KEY, PAGE = "blind_samples.csv", "blind_key.csv", "blind_review.html"
TEMPLATE = Path(__file__).with_name("blind_review.html.j2")

Texts = dict[tuple[str, int, int], str]  # prompt, length and sampling seed -> text


class Pair(NamedTuple):
    prompt: str
    seed: int  # the sampling seed of both texts
    sides: tuple[str, str]  # "A" and "B" as they stand on the sheet
    texts: tuple[str, str]


def write_review(folder: Path, a: Arm, b: Arm, pairs: int | None = None, seed: int = 0) -> list[Path]:
    """Write sheet, page, key and all texts of both arms into the run folder; the files written.

    `pairs` is how many at most (None: all), drawn by `seed`; both texts of one are of the same prompt, length and
    sampling seed. Raises ValueError where there is no pair, and rather than lose verdicts or the key of a sheet that
    may be with its readers.
    """
    found = _read_samples(folder)
    texts = [_texts_of(arm, found, folder) for arm in (a, b)]
    chosen = draw_pairs(texts[0], texts[1], pairs, seed)
    if not chosen:
        raise ValueError(f"{label(a)} and {label(b)} have no texts of the same prompt, length and sampling seed")
    ids = _ids(chosen)
    rows = [[name, pair.prompt, *pair.texts, "", ""] for name, pair in zip(ids, chosen, strict=True)]
    keys = [[name, *pair.sides, *a, *b, pair.seed] for name, pair in zip(ids, chosen, strict=True)]
    files = {
        folder / KEY: table_text(KEY_COLUMNS, keys, csv.QUOTE_ALL),
        folder / SHEET: table_text(COLUMNS, rows, csv.QUOTE_ALL),
    }
    files[folder / PAGE] = render(TEMPLATE, pairs=[dict(zip(COLUMNS, row, strict=True)) for row in rows])
    for (method, setting), own in zip((a, b), texts, strict=True):
        name = re.sub(r"[^\w.=-]+", "_", method if a[0] != b[0] else f"{method}_{setting}")
        lines = [[origin, prompt, text] for (prompt, _, origin), text in own.items()]
        files[folder / f"samples_{name}.csv"] = table_text(("seed", "prompt", "text"), lines, csv.QUOTE_ALL)
    _check_nothing_is_lost(folder, files[folder / KEY])
    for path, content in files.items():
        write(path, content)
    return list(files)


def draw_pairs(a: Texts, b: Texts, count: int | None, seed: int) -> list[Pair]:
    """At most `count` pairs in random order, each arm first in half of them (which is ahead by one is drawn, too)."""
    if count is not None and count < 1:
        raise ValueError(f"pairs={count} is no number of pairs: ask for at least 1")
    random = np.random.default_rng(seed)
    both = [key for key in a if key in b]
    order = random.permutation(len(both))[:count]
    swapped = random.permutation((np.arange(len(order)) + random.integers(2)) % 2)
    pairs = []
    for index, swap in zip(order, swapped, strict=True):
        prompt, _, origin = key = both[index]
        one, other = ("A", a[key]), ("B", b[key])
        (first, left), (second, right) = (other, one) if swap else (one, other)
        pairs.append(Pair(prompt, origin, (first, second), (left, right)))
    return pairs


def _read_samples(folder: Path) -> list[dict[str, Any]]:
    """The texts of the rows that are done; of a method that was trained several times those of its first training."""
    path = folder / "samples.jsonl"
    done = {table.identity(row) for row in table.read_rows(folder / "results.csv")}
    if not path.is_file() or not done:
        raise FileNotFoundError(f"{folder} holds no results.csv with samples.jsonl: give a comparison's, or an A/B's")
    records = [record for record in read_records(path) if table.identity(record) in done]
    own = _training_seeds(folder)
    for record in records:
        own.setdefault(record["method"], [record.get(table.TRAINING_SEED)])
    return [
        record
        for record in records
        if (seed := record.get(table.TRAINING_SEED)) == own[record["method"]][0]
        or (seed is None and len(own[record["method"]]) == 1)  # made when there was one
    ]


def _training_seeds(folder: Path) -> dict[str, list[int | None]]:
    """Training seeds of each method by comparison.json; none of what is no comparison, or an older one."""
    path = folder / "comparison.json"
    about = read_json(path, dict, "run the comparison again") if path.is_file() else {}
    told = {method["label"]: method.get("trainings") for method in about.get("methods", [])}
    return {label: [one["seed"] for one in trainings] for label, trainings in told.items() if trainings}


def _texts_of(arm: Arm, records: Sequence[dict[str, Any]], folder: Path) -> Texts:
    found: Texts = {}
    for record in records:
        if (record["method"], record["setting"]) != arm:
            continue
        for origin, text in zip(record["origins"], record["texts"], strict=True):
            if found.setdefault((record["prompt"], record["length"], origin), text) != text:
                raise ValueError(f"{label(arm)} stands for several weights or decoders in {folder}: review them apart")
    if not found:
        there = dict.fromkeys(label((record["method"], record["setting"])) for record in records)
        raise ValueError(f"{folder} has no texts of '{label(arm)}': choose among {', '.join(there)}")
    return found


def _arm(name: str, folder: Path) -> Arm:
    """The arm that a setting, or "METHOD: SETTING", names in a run folder."""
    records = _read_samples(folder)
    arms = dict.fromkeys((record["method"], record["setting"]) for record in records)
    found = [arm for arm in arms if name in (arm[1], label(arm))]
    if len(found) != 1:
        problem = "is the setting of several methods" if found else "is not there"
        choice = ", ".join(f"'{label(arm)}'" for arm in found or arms)
        raise ValueError(f"'{name}' {problem}: choose among {choice}")
    return found[0]


def _ids(pairs: Sequence[Pair]) -> list[str]:
    """Names of the pairs, which tell this review from others and say nothing of the arms; no spreadsheet takes them
    for numbers or dates."""
    digest = hashlib.sha256(json.dumps([pair.texts for pair in pairs]).encode()).hexdigest()[:6]
    review = "".join(chr(ord("a") + int(digit, 16)) for digit in digest)
    return [f"{review}-{number:03}" for number in range(1, len(pairs) + 1)]


def _check_nothing_is_lost(folder: Path, key: str) -> None:
    sheet = folder / SHEET
    if sheet.is_file():
        rows = read_sheet(sheet, ("pair", "verdict", "comment"), "sheet")
        if any(row["verdict"].strip() or row["comment"].strip() for row in rows):
            raise ValueError(f"{sheet} is filled in: move it and {KEY} away before making another review")
    if (folder / KEY).is_file() and (folder / KEY).read_bytes() != key.encode():
        raise ValueError(f"{folder / KEY} belongs to another review, whose sheet may be out: move it away first")


@in_one_sentence
def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m experiments.analysis.blind_review", description="Blind reviews.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="write sheet, page and key")
    make.add_argument("run", type=Path, metavar="RUN", help="run folder with results.csv and samples.jsonl")
    make.add_argument("--a", required=True, metavar="SETTING", help="a setting, or 'METHOD: SETTING'")
    make.add_argument("--b", required=True, metavar="SETTING", help="the one to compare it with")
    make.add_argument("--pairs", type=int, metavar="N", help="how many at most (default: all)")
    make.add_argument("--seed", type=int, default=0, metavar="S", help="of the order and the sides")
    scoring = commands.add_parser("score", help="count the verdicts of a filled sheet")
    scoring.add_argument("sheet", type=Path, metavar="SHEET")
    scoring.add_argument("key", type=Path, metavar="KEY")
    given = parser.parse_args(arguments)
    if given.command == "score":
        print(report(score(given.sheet, given.key)))
    else:
        arms = [_arm(name, given.run) for name in (given.a, given.b)]
        print(*write_review(given.run, arms[0], arms[1], given.pairs, given.seed), sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
