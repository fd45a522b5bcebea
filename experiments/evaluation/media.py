"""A sweep and its traces as tables of W&B, under the names that results.csv and summary.json have."""

from collections.abc import Sequence
from typing import Any

from experiments.analysis import decoding_table as table
from experiments.analysis.trace import TraceRecord
from experiments.evaluation.records import DecodingRecords
from experiments.training.loggers import Table

UNKNOWN = "░"  # a position that is masked or mostly noise
NOISY = 0.5  # level above which it is


def sweep_tables(records: DecodingRecords) -> dict[str, Table]:
    """`results`, a row for each setting and seed, and `samples`, a row for each text."""
    results = [
        [str(row[name]) if name in table.JSON_COLUMNS else row[name] for name in table.COLUMNS]
        for row in records.rows.values()
    ]
    samples: list[list[Any]] = []
    for record in records.read_samples():
        own = [record.get(name) for name in ("method", "setting", table.TRAINING_SEED, "seed")]
        samples += [[*own, *pair] for pair in zip(record["prompts"], record["texts"], strict=True)]
    return {
        "results": (list(table.COLUMNS), results),
        "samples": (["method", "setting", table.TRAINING_SEED, "seed", "prompt", "text"], samples),
    }


def trace_tables(traces: Sequence[TraceRecord]) -> dict[str, Table]:
    """For every trace what stood there after each state."""
    found: dict[str, Table] = {}
    for trace in traces:
        rows = []
        for state, tokens in enumerate(trace.tokens):
            shown = zip(tokens, trace.levels[state], strict=True)
            text = "".join(UNKNOWN if level > NOISY else token for token, level in shown)
            rows.append([state, int(trace.forwards[state]), text])
        found[f"traces/{trace.method} {trace.decoder}"] = (["state", "forwards", "text"], rows)
    return found
