"""Makes the rows of plans, each once: models, real text and controls side by side, into the records of a folder."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from algorithms.common.metrics.corpus import unlike_real_text
from experiments.analysis import decoding_table as table
from experiments.analysis import metrics
from experiments.evaluation.judges.base import fingerprint
from experiments.evaluation.measurement import Assignment, TextEvaluator, Writer
from experiments.evaluation.plan import Job, Plan, jobs_of
from experiments.evaluation.records import DecodingRecords
from experiments.run.build import keys_below
from experiments.run.console import print_rank_zero


class DecodingSweep:
    """Writers by method, what they are measured by, and what stands beside them: `modelless` (method, setting) pairs.
    `training_seeds` tell writers of a method from those that other sweeps of the folder have for it.

    Raises ValueError where the folder's results.csv is not one of a sweep.
    """

    def __init__(
        self,
        folder: Path,
        writers: dict[str, Writer],
        evaluator: TextEvaluator,
        *,
        seeds: Sequence[int],
        modelless: Sequence[tuple[str, str]],
        progress: bool,
        training_seeds: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.records = DecodingRecords(folder)
        self.writers = writers
        self.evaluator = evaluator
        self.seeds = seeds
        self.modelless = modelless
        self.progress = progress
        self.training_seeds = training_seeds

    def check(self, plan: Plan, key: str) -> None:
        """Raise ValueError, with the configuration's key and the setting's label, on what does not fit its model."""
        for method, settings in plan.settings.items():
            for setting in settings:
                writer = self.writers[method]
                try:
                    with keys_below("algorithm.decoder", setting.decoder):
                        setting.decoder.check(writer.algorithm, writer.request(plan.assignment, [0]))
                except ValueError as error:
                    raise ValueError(f"{key}: {setting.label}: {error}") from error

    def measure(self, plan: Plan, warm_up: Sequence[str] = ("method",)) -> list[table.Row]:
        """All rows of a plan. Those that are not there yet are made after passes that are not recorded: one for every
        different value that their identities have in `warm_up`."""
        jobs = self._jobs(plan)
        for job in jobs:
            if job.identity in self.records:  # it may have been made when nobody asked which training it is of
                self.records.rows[table.identity(job.identity)][table.TRAINING_SEED] = job.training_seed
        self.records.begin()
        judges = self.evaluator.judges
        for writer in self.writers.values():
            writer.algorithm.to(writer.device).eval()
            if judges is not None:
                judges.to(writer.device)
        todo = [job for job in jobs if job.identity not in self.records]
        if len(todo) < len(jobs):
            print_rank_zero(f"{len(jobs) - len(todo)} of {len(jobs)} rows are there already")
        for job in todo:
            if job.setting is None:
                self._measure_modelless(job, plan.assignment)
        passes = [job for job in todo if job.setting is not None]
        for job in {tuple(job.identity[name] for name in warm_up): job for job in reversed(passes)}.values():
            self._write(job, plan.assignment)
        began = time.perf_counter()
        for done, job in enumerate(passes, 1):
            found = self._write(job, plan.assignment)
            row = self._keep(job, found, self.evaluator.metrics(found))
            left = int((time.perf_counter() - began) / done * (len(passes) - done))
            if self.progress:
                cost = f"{row['seconds']:.2f} s, {row['tokens_per_forward']:.2f} tokens/forward"
                several = f"{row['method']}: " if len(self.writers) > 1 else ""
                where = f"{done}/{len(passes)}  {several}{row['setting']}, seed {row['seed']}"
                print_rank_zero(f"{where}: {cost}, {left // 60}:{left % 60:02d} left")
        return [self.records.rows[table.identity(job.identity)] for job in jobs]

    def flags(self, groups: Sequence[table.Row], assignment: Assignment) -> list[dict[str, Any]]:
        """Of every aggregated row but real text's: which metrics lie clearly outside what real text of its size has."""
        real = self.evaluator.real_range(assignment) if self.evaluator.has_real_text(assignment) else []
        margins = {name: metrics.BY_KEY[name].margin for name in metrics.QUALITY}
        found = []
        for group in groups:
            if group["method"] == table.REAL:
                continue
            means = {name: group[name].mean for name in metrics.QUALITY if group[name] is not None}
            own = {"method": group["method"], "setting": group["setting"]}
            found.append(own | {"flags": unlike_real_text(means, real, margins)})
        return found

    def _jobs(self, plan: Plan) -> list[Job]:
        modelless = self.modelless
        if modelless and not self.evaluator.has_real_text(plan.assignment):
            print_rank_zero("the val split is shorter than a sample: the table has no row of real text")
            modelless = [pair for pair in modelless if pair[0] != table.REAL]
        judges = self.evaluator.judges
        return jobs_of(
            plan,
            self.seeds,
            weights={method: fingerprint(writer.algorithm) for method, writer in self.writers.items()},
            judge=judges.fingerprint if judges else None,
            modelless=modelless,
            training_seeds=self.training_seeds,
        )

    def _write(self, job: Job, assignment: Assignment) -> Any:
        assert job.setting is not None
        return self.writers[job.identity["method"]].write(job.setting.decoder, assignment, job.identity["seed"])

    def _measure_modelless(self, job: Job, assignment: Assignment) -> None:
        method, setting, seed = (job.identity[name] for name in ("method", "setting", "seed"))
        if method == table.CONTROL:
            found = self.evaluator.control(setting, assignment, seed)
        else:
            found = self.evaluator.real_text(setting, assignment, seed)
        draw = seed if setting == table.HELD_OUT else None
        self._keep(job, found, self.evaluator.metrics(found, held_out_draw=draw))

    def _keep(self, job: Job, found: Any, values: dict[str, Any]) -> table.Row:
        """The row of a job, kept in the records: what was not measured stays None."""
        own = job.identity | {table.TRAINING_SEED: job.training_seed}
        row = dict.fromkeys(table.COLUMNS) | own | found.cost | values
        self.records.add(row, found.origins, found.texts, found.prompts)
        return row
