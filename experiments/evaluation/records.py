"""The files of a decoding sweep, grown row by row so that a stopped sweep goes on where it was.

results.csv is what counts as done; results.json holds the same rows, samples.jsonl and samples.txt their texts for
programs and for people.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.analysis import decoding_table as table
from experiments.analysis.files import read_records, write
from experiments.run.files import append_text, write_json


class DecodingRecords:
    """Rows of the sweep in `folder`, by identity. Raises ValueError where results.csv is not one of a sweep."""

    def __init__(self, folder: Path) -> None:
        self.csv = folder / "results.csv"
        self.json = folder / "results.json"
        self.samples = folder / "samples.jsonl"
        self.readable = folder / "samples.txt"
        self.rows = {table.identity(row): row for row in table.read_rows(self.csv)}
        self.columns = list(dict.fromkeys([*table.COLUMNS, *(name for row in self.rows.values() for name in row)]))

    def __contains__(self, row: table.Row) -> bool:
        return table.identity(row) in self.rows

    def begin(self) -> None:
        """Bring the files to the rows that are done: whatever a kill cut short or left without its row goes."""
        done = [record for record in self.read_samples() if record in self]
        seed = table.TRAINING_SEED
        texts = [record | {seed: self.rows[table.identity(record)][seed]} for record in done]
        write(self.csv, table.write_rows(list(self.rows.values()), self.columns, header=True))
        write(self.samples, "".join(map(_line, texts)))
        write(self.readable, "".join(map(_block, texts)))
        self._write_json()

    def add(self, row: table.Row, origins: Sequence[int], texts: Sequence[str], prompts: Sequence[str]) -> None:
        """Keep a row, and first its texts, each with what it continues and with its origin: a sampling seed, or a
        position in real text."""
        record = {name: row[name] for name in (*table.IDENTITY, table.TRAINING_SEED)}
        record |= {"origins": list(origins), "prompts": list(prompts), "texts": list(texts)}
        append_text(self.samples, _line(record))
        append_text(self.readable, _block(record))
        append_text(self.csv, table.write_rows([row], self.columns))
        self.rows[table.identity(row)] = row
        self._write_json()

    def _write_json(self) -> None:
        write_json(self.json, list(self.rows.values()))

    def read_samples(self) -> list[dict[str, Any]]:
        """Records of samples.jsonl, each once; a line that a kill cut short is none."""
        return list({table.identity(record): record for record in read_records(self.samples)}.values())


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _block(record: dict[str, Any]) -> str:
    """The texts of a row, each below a line that says which it is."""
    head = f"----- {record['method']}, {record['setting']}, seed {record['seed']}, text"
    pairs = zip(record["prompts"], record["texts"], strict=True)
    return "".join(f"{head} {i}\n{prompt}{text}\n\n" for i, (prompt, text) in enumerate(pairs, 1))
