"""A small folder of a comparison, as experiment=comparison leaves it, with numbers that tests know.

Two methods: `gpt` with an exact likelihood, `masked` with a bound and an exact one of its own order.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.analysis import decoding_table as table
from experiments.analysis.files import table_text, write
from experiments.analysis.likelihood import Windows, mean_per_token, write_windows
from experiments.analysis.report.reading import LIKELIHOOD_COLUMNS
from experiments.analysis.trace import TraceRecord, write_trace

SEEDS = (0, 1, 2)
TOKENS = np.array([8, 8, 4])
GPT_NATS = np.array([16.0, 12.0, 7.0])  # of each window
MASKED_NATS = np.array([20.0, 18.0, 8.0])
KINDS = {"gpt": {"nll": "exact"}, "masked": {"any_order": "bound", "left_to_right": "exact for this order"}}
FRONTIER = {
    "gpt": ("ar temperature=0.5", "ar temperature=1.0"),
    "masked": ("hit temperature=0.5", "hit temperature=1.0"),
}
SPEED = {"gpt": (FRONTIER["gpt"][1],), "masked": (FRONTIER["masked"][1], "steps steps=4")}
LOW = ("gpt", "ar temperature=0.2")  # a control with a model
CONTROLS = ((table.CONTROL, "unigram noise"), (table.CONTROL, "training copier"), LOW)
REAL = (table.REAL, table.HELD_OUT)
SETTINGS = [(m, s) for m in FRONTIER for s in dict.fromkeys([*FRONTIER[m], *SPEED[m]])] + [*CONTROLS, REAL]


def metrics_of(setting: tuple[str, str], seed: int) -> dict[str, float]:
    """What the rows of a setting hold, different in every setting and at every seed."""
    place = SETTINGS.index(setting)
    quality = {
        "judge_nll": 1.0 + 0.25 * place + 0.01 * seed,
        "character_entropy": 4.0 + 0.05 * place + 0.002 * seed,
        "js_4": 0.1 + 0.03 * place + 0.001 * seed,
        "distinct_2": 0.5 + 0.01 * place,
        "text_length": 12.0,
    }
    if setting[0] in table.MODELLESS:
        return quality
    cost = {
        "seconds": 0.5 + 0.5 * place + 0.1 * seed,
        "forwards": 4 * (place + 1),
        "tokens_per_forward": 12 / (place + 1),
    }
    return quality | cost


def row(setting: tuple[str, str], seed: int) -> table.Row:
    method, label = setting
    decoder = None
    if method not in table.MODELLESS:
        words = dict(word.split("=") for word in label.split() if "=" in word)
        decoder = {"name": label.split()[0], "temperature": float(words.get("temperature", 1.0))}
    shared = {"n_samples": 2, "length": 12, "prompt": "", "weights": None, "judge": "j0+j1"}
    own = {"method": method, "setting": label, "options": None, "decoder": decoder, "seed": seed}
    return dict.fromkeys(table.COLUMNS) | own | shared | metrics_of(setting, seed)


def text_of(setting: tuple[str, str], seed: int, number: int) -> str:
    return f"{setting[0]} {setting[1]} wrote {seed}.{number}"


def write_rows(folder: Path, rows: list[table.Row]) -> None:
    (folder / "results.csv").write_bytes(table.write_rows(rows, header=True).encode())


def write_samples(folder: Path, texts: dict[tuple[str, str], list[str]]) -> None:
    """samples.jsonl with these texts at every seed; of settings that are not named, those of text_of."""
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
        for setting in SETTINGS:
            for seed in SEEDS:
                written = texts.get(setting, [text_of(setting, seed, number) for number in (1, 2)])
                record = {name: row(setting, seed)[name] for name in table.IDENTITY}
                file.write(json.dumps(record | {"origins": [2 * seed, 2 * seed + 1], "texts": written}) + "\n")


def write_likelihoods(folder: Path, nats: dict[str, dict[str, np.ndarray]]) -> None:
    """likelihood.csv and likelihoods/ from the nats of each window, method by method."""
    (folder / "likelihoods").mkdir(exist_ok=True)
    lines = [",".join(LIKELIHOOD_COLUMNS)]
    for method, own in nats.items():
        write_windows(folder / "likelihoods" / f"{method}.csv", Windows(TOKENS, own))
        for name, values in own.items():
            mean, error = mean_per_token(values, TOKENS)
            bits = float(mean / np.log(2))
            lines.append(f"{method},test,{name},{KINDS[method][name]},{mean!r},{error!r},{bits!r},3,{TOKENS.sum()},7")
    (folder / "likelihood.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_trainings(folder: Path, nats: dict[str, dict[int, dict[str, np.ndarray]]]) -> None:
    """The same for several trainings of each method, by seed, as comparison.json then names them."""
    methods = about()["methods"]
    lines = []
    for method, by_seed in nats.items():
        trainings = []
        for number, (seed, own) in enumerate(by_seed.items()):
            name = f"{method}_seed={seed}" if number else method
            trainings.append({"name": name, "seed": seed, "training": {"steps": 30, "seconds": 60.0 + 10 * seed}})
            write_windows(folder / "likelihoods" / f"{name}.csv", Windows(TOKENS, own))
            for likelihood, values in own.items():
                mean, error = mean_per_token(values, TOKENS)
                kind = KINDS[method][likelihood]
                lines.append([method, "test", likelihood, kind, mean, error, mean / np.log(2), 3, TOKENS.sum(), seed])
        next(one for one in methods if one["label"] == method)["trainings"] = trainings
    write(folder / "likelihood.csv", table_text(LIKELIHOOD_COLUMNS, lines))
    write_about(folder, methods=methods)


def write_flags(folder: Path, flags: dict[tuple[str, str], list[str]]) -> None:
    entries = [{"method": method, "setting": label, "flags": names} for (method, label), names in flags.items()]
    (folder / "flags.json").write_text(json.dumps(entries), encoding="utf-8")


def trace(method: str) -> TraceRecord:
    """Four tokens, decided one by one; of "masked" with a draft between."""
    levels = np.array([[0, 1, 1, 1], [0, 0, 0.5, 1], [0, 0, 0, 0.5], [0, 0, 0, 0]], dtype=float)
    if method == "gpt":
        levels = np.ceil(levels)
    given = np.array([True, False, False, False])
    return TraceRecord(
        method, "a setting", "a", "states", given, [["a", "b", "c", "d"]] * 4, levels, np.arange(4), 0.1, 1.0
    )


def about(**changes: Any) -> dict[str, Any]:
    """comparison.json, with some of its entries changed."""
    methods = [
        {
            "label": label,
            "algorithm": {"masked": "masked_diffusion"}.get(label, label),
            "description": f"what {label} learns",
            "folder": f"methods/{label}",
            "trained_here": True,
            "command": f"python main.py algorithm={label}",
            "parameters": 1234 + place,
            "likelihood_kind": "exact" if label == "gpt" else "bound",
            "weights": "w",
            "block_size": 8,
            "training": {"steps": 30, "tokens": 600, "seconds": 75.0 + place, "tokens_per_second": 8.0},
            "default": FRONTIER[label][1],
            "frontier": list(FRONTIER[label]),
            "speed": list(SPEED[label]),
        }
        for place, label in enumerate(FRONTIER)
    ]
    judge = {"folder": "judges/0", "dataset": "other", "seed": 0, "fingerprint": "j0", "test_nll": 1.5, "command": None}
    return {
        "schema": 1,
        "title": "Two ways, compared",
        "dataset": "a_corpus",
        "split": "test",
        "seed": 7,
        "steps": 30,
        "command": "python main.py experiment=comparison seed=7",
        "sampling": {"n_samples": 2, "length": 12, "prompt": "", "seeds": list(SEEDS)},
        "methods": methods,
        "judges": [judge],
        "controls": [{"method": method, "setting": setting} for method, setting in CONTROLS],
        "machine": {"platform": "a platform", "cpu_cores": 2, "torch_threads": 1, "gpus": []},
        "git_commit": "abc123",
        "versions": {"python": "3.11", "torch": "2.13"},
    } | changes


def write_about(folder: Path, **changes: Any) -> None:
    (folder / "comparison.json").write_text(json.dumps(about(**changes)), encoding="utf-8")


def build(folder: Path) -> Path:
    """A whole comparison in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_about(folder)
    write_likelihoods(
        folder, {"gpt": {"nll": GPT_NATS}, "masked": {"any_order": MASKED_NATS, "left_to_right": MASKED_NATS - 0.5}}
    )
    write_rows(folder, [row(setting, seed) for setting in SETTINGS for seed in SEEDS])
    write_samples(folder, {})
    flagged = {CONTROLS[0]: ["js_4", "valid_words"], CONTROLS[1]: ["copy_rate"], LOW: ["self_bleu"]}
    write_flags(folder, flagged | {("gpt", FRONTIER["gpt"][1]): [], ("masked", FRONTIER["masked"][1]): ["js_4"]})
    for number, label in enumerate(FRONTIER):
        write_trace(folder / "traces" / f"{label}.json", trace(label))
        run = folder / "methods" / label
        run.mkdir(parents=True)
        (run / "metrics.csv").write_text(
            "step,train/tokens,train/seconds,val/nll\n"
            + "".join(f"{step},{20 * step},{step / 2},{3 + number - step / 30}\n" for step in (10, 20, 30)),
            encoding="utf-8",
        )
        kind = "exact" if label == "gpt" else "bound"
        (run / "summary.json").write_text(json.dumps({"likelihood_kind": kind}), encoding="utf-8")
    return folder
