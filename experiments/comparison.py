"""Methods trained by the same budget, measured on the same windows, prompts and seeds, and reported on one page.

Everything is kept in files as it is made, and the report is written from these alone (experiments/analysis/report).
"""

import math
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from algorithms.common.likelihood import bits_per_character
from algorithms.common.metrics.adversaries import CONTROLS
from datasets.data_module import TextDataModule
from experiments.analysis import blind_review
from experiments.analysis import decoding_table as table
from experiments.analysis.files import table_text, write
from experiments.analysis.likelihood import figures_over_trainings, mean_per_token, write_windows
from experiments.analysis.report import write_report
from experiments.analysis.report.reading import LIKELIHOOD_COLUMNS
from experiments.analysis.trace import write_trace
from experiments.base_experiment import BaseExperiment
from experiments.evaluation import compared_methods, manifest
from experiments.evaluation.compared_methods import ComparedMethod, Trained
from experiments.evaluation.comparison_config import ComparisonConfig
from experiments.evaluation.decoding_sweep import DecodingSweep
from experiments.evaluation.judges.base import KEY, fingerprint
from experiments.evaluation.judges.panel import JudgePanel, load_judges
from experiments.evaluation.likelihood import measure
from experiments.evaluation.measurement import Assignment, TextEvaluator, Writer
from experiments.evaluation.media import sweep_tables, trace_tables
from experiments.evaluation.plan import Plan
from experiments.evaluation.samples import read_prompts
from experiments.evaluation.tracing import record_trace
from experiments.run.build import called, keys_below
from experiments.run.console import print_rank_zero
from experiments.run.devices import visible_devices
from experiments.run.files import read_json, write_json
from experiments.run.folder import COMPARISON
from experiments.run.overrides import key_of
from experiments.run.unused import sentence
from experiments.training.child_runs import ChildRun, train

MODELLESS = (
    *((table.CONTROL, name) for name in CONTROLS),
    (table.REAL, table.TRAINING_TEXT),
    (table.REAL, table.HELD_OUT),
)


class Comparison(BaseExperiment):
    """Its tasks in turn leave files in the run folder, and do not do again what these hold."""

    config_class = ComparisonConfig
    config: ComparisonConfig
    tasks = ("training", "likelihood", "sweep", "visualize", "report")
    needs_weights = False  # it trains what it lacks
    folders = ("plots", "likelihoods", "traces")

    def prepare(self) -> None:
        config, run = self.config, self.run
        self._check_overrides()
        make = compared_methods.make_compared_method
        self.methods = [make(run, self.run_dir, label, method) for label, method in config.methods.items()]
        for method in self.methods:
            for note in method.notes:
                print_rank_zero(note)
        if config.training_seeds is not None and all(method.load is not None for method in config.methods.values()):
            print_rank_zero(sentence("experiment.training_seeds", "experiment.methods.NAME.load of every method"))
        self.judge_runs = compared_methods.judge_runs(run, self.run_dir)
        self._check_trained()
        with keys_below("dataset", run.dataset):
            self.data = TextDataModule(
                run.dataset,
                block_size=config.block_size or self.methods[0].model_settings.plain["backbone"]["block_size"],
                batch_size=config.training.batch_size,
                eval_batch_size=config.evaluation.batch_size,
                seed=run.seed,
            ).prepare()
        compared_methods.check_fit(self.methods, self.data)
        if config.judges.load:
            with called(KEY, "experiment.judges.load"):
                load_judges(config.judges.load).check_writer(self.data.tokenizer)
        sampling, tokenizer = config.sampling, self.data.tokenizer
        (prompt,) = read_prompts(tokenizer, sampling)
        self.assignment = Assignment(tuple(prompt.ids), prompt.text, sampling.length, sampling.n_samples)
        untrained = {method.label: method.fresh(tokenizer.vocabulary_size) for method in self.methods}
        self._decoding_sweep(untrained, TextEvaluator(self.data, None)).check(self.plan, "experiment.methods")

    def begin(self) -> None:
        super().begin()
        self._write_manifest()

    @rank_zero_only
    def training(self) -> None:
        """Train what is missing, every method by the same budget and at every training seed, and the judges; several at
        once on a CPU or several GPUs."""
        children = self._children()
        at_once = min(2, os.cpu_count() or 1) if self.device.type == "cpu" else max(1, len(visible_devices(os.environ)))
        shown = self.run.callbacks
        every = shown.line_every_seconds if shown.progress else math.inf
        train(children, workers=self.config.workers or at_once, report=print_rank_zero, every=every)
        self._write_manifest()

    @rank_zero_only
    def likelihood(self) -> None:
        """Every likelihood of every training of every method over the same windows of one split: likelihood.csv, window
        by window in likelihoods/."""
        split, lines = self.config.evaluation.likelihood_split, []
        for method in self.methods:
            by_seed: dict[str, list[tuple[float, float]]] = {}
            for training in method.trainings:
                found = self._likelihoods(training, split)
                said = self._called(method, training)
                for one in found["likelihoods"]:
                    name, kind, mean, error, bits = (one[key] for key in ("name", "kind", "nats", "error", "bits"))
                    own = [method.label, split, name, kind, mean, error, bits, found["windows"], found["tokens"]]
                    lines.append([*own, training.seed])
                    key = f"{method.label}/{split}/{name}"
                    by_seed.setdefault(key, []).append((mean, error))
                    self.summary["kinds"][key] = kind
                    print_rank_zero(f"{said}: {split}/{name} {mean:.4f} ± {error:.4f} nats per token ({kind})")
            for key, values in by_seed.items():
                self.summary["figures"] |= figures_over_trainings(key, *zip(*values, strict=True))
        write(self.run_dir / "likelihood.csv", table_text(LIKELIHOOD_COLUMNS, lines))

    @rank_zero_only
    def sweep(self) -> None:
        """Texts of every method's settings at every seed, of real text and of controls: results.csv and what goes with
        it, results.md, flags.json."""
        judges = self._judges()
        if judges is not None:
            judges.check_writer(self.data.tokenizer)
        evaluator = TextEvaluator(self.data, judges)
        rows: list[table.Row] = []
        rounds = max(len(method.trainings) for method in self.methods)
        for number in range(rounds):  # one training of each at a time: so many models fit a GPU
            there = {m.label: m.trainings[number] for m in self.methods if number < len(m.trainings)}
            if rounds > 1:
                seeds = ", ".join(f"{label} of {one.called}" for label, one in there.items())
                print_rank_zero(f"models {number + 1} of {rounds}: {seeds}")
            decoding_sweep = self._decoding_sweep(
                {label: one.load().algorithm for label, one in there.items()},
                evaluator,
                modelless=() if number else MODELLESS,
                training_seeds={label: one.seed for label, one in there.items()},
            )
            settings = {label: self.plan.settings[label] for label in there}
            rows += decoding_sweep.measure(self.plan._replace(settings=settings))
        groups = table.aggregate(rows)
        flags = decoding_sweep.flags(groups, self.assignment)
        write_json(self.run_dir / "flags.json", flags)
        write(self.run_dir / "results.md", table.markdown_table(groups))
        controls = [(table.CONTROL, name) for name in CONTROLS]
        controls += [(method.label, method.control.label) for method in self.methods if method.control]
        for one in flags:
            if (one["method"], one["setting"]) in controls:
                print_rank_zero(f"{one['setting']}: unlike real text in {', '.join(one['flags']) or 'nothing'}")
        self.summary["figures"] |= table.summary_means(groups)
        self.log_media(tables=sweep_tables(decoding_sweep.records))

    @rank_zero_only
    def visualize(self) -> None:
        """One text of each method's first training at its default setting, state by state: traces/."""
        assignment = self.assignment._replace(length=self.config.visualize.blocks * self.data.block_size)
        for method in self.methods:
            out = self.run_dir / "traces" / f"{method.label}.json"
            model, seed = method.trainings[0].load(), self.config.seeds[0]
            if read_json(out).get("weights") == fingerprint(model.algorithm):
                continue
            algorithm = model.algorithm.to(self.device).eval()
            try:
                trace = record_trace(
                    algorithm,
                    model.tokenizer,
                    assignment,
                    method.default,
                    method=method.label,
                    seed=seed,
                    context=self.evaluator.strategy.precision_plugin.forward_context,
                )
            except ValueError as error:  # a method of the user's that records none, or writes shorter texts
                print_rank_zero(f"{method.label} is left out: {error}")
                continue
            write_trace(out, trace)
            self.log_media(tables=trace_tables([trace]))

    @rank_zero_only
    def report(self) -> None:
        """report.html, report.md and plots/ from the files of this folder alone, and the sheet of a blind review."""
        self._write_manifest()
        review = self.config.review
        if review is not None and not (self.run_dir / blind_review.KEY).is_file():  # a sheet may be filled by now
            named = {method.label: (method.label, method.default.label) for method in self.methods}
            a, b = (named[label] for label in review.methods)
            blind_review.write_review(self.run_dir, a, b, review.pairs, review.seed)
        written = write_report(self.run_dir)
        for path in written:
            if path.suffix in (".html", ".md"):
                print_rank_zero(f"report: {path}")
        if review is not None:
            print_rank_zero(f"blind review, for readers: {self.run_dir / blind_review.PAGE}")
        self.log_media(files=[path for path in written if path.suffix in (".png", ".gif", ".html")])

    @cached_property
    def plan(self) -> Plan:
        return Plan({method.label: method.settings for method in self.methods}, self.assignment)

    def _decoding_sweep(
        self,
        algorithms: dict[str, Any],
        evaluator: TextEvaluator,
        *,
        modelless: Sequence[tuple[str, str]] = MODELLESS,
        training_seeds: Mapping[str, int] = MappingProxyType({}),
    ) -> DecodingSweep:
        return DecodingSweep(
            self.run_dir,
            {
                label: Writer(
                    algorithm,
                    self.data.tokenizer,
                    self.device,
                    context=self.evaluator.strategy.precision_plugin.forward_context,
                )
                for label, algorithm in algorithms.items()
            },
            evaluator,
            seeds=self.config.seeds,
            modelless=modelless,
            progress=self.run.callbacks.progress,
            training_seeds=training_seeds,
        )

    def _children(self) -> list[ChildRun]:
        """Those of all methods at one training seed, then at the next, and the judges."""
        by_seed = zip_longest(*(method.trainings for method in self.methods))
        own = [one.child for trainings in by_seed for one in trainings if one is not None and one.child is not None]
        return [*own, *self.judge_runs]

    def _called(self, method: ComparedMethod, training: Trained) -> str:
        return method.label if len(method.trainings) == 1 else f"{method.label}, {training.called}"

    def _judges(self) -> JudgePanel | None:
        paths = self.config.judges.load or [str(child.folder) for child in self.judge_runs]
        return load_judges(paths) if paths else None

    def _check_overrides(self) -> None:
        """Raise ValueError on what chooses the one method of other experiments."""
        if self.run.load is not None:
            raise ValueError("load= is for one model: a comparison takes experiment.methods.NAME.load=RUN_FOLDER")
        if any(key_of(override) == "algorithm" for override in self.run.overrides):
            raise ValueError("algorithm= chooses one method: a comparison has experiment.methods, null takes one out")
        for override in self.run.overrides:
            if key_of(override).startswith("algorithm") and not compared_methods.is_part(override):
                raise ValueError(
                    f"{key_of(override)} is of one method, and a comparison has several: say "
                    f"'experiment.methods.NAME.overrides=[{override}]'"
                )

    def _check_trained(self) -> None:
        for child in self._children():
            child.check()
            if not self.trains and not child.finished:
                raise ValueError(f"{child.label} is not trained yet: put training first in experiment.tasks")

    def _likelihoods(self, training: Trained, split: str) -> dict[str, Any]:
        """Likelihoods of a training, measured unless the same weights' are there."""
        model = training.load()
        stored = self.run_dir / "likelihoods" / f"{training.name}.json"
        loader = self.data.eval_dataloader(split)
        batches, number = len(loader), self._likelihood_batches(split)
        chosen = {*np.linspace(0, batches - 1, number).round().astype(int).tolist()}  # spread evenly
        asked = {"weights": fingerprint(model.algorithm), "split": split, "batches": sorted(chosen)}
        if (found := read_json(stored)) and found["of"] == asked:
            return found
        measured = measure(
            model.algorithm.to(self.device).eval(),
            (one for index, one in enumerate(zip(loader.numbers, loader, strict=True)) if index in chosen),
            number=len(chosen),
            context=self.evaluator.strategy.precision_plugin.forward_context,
            report=print_rank_zero,
        )
        tokens = measured.windows.tokens
        likelihoods = []
        for name, nats in measured.windows.nats.items():
            mean, error = mean_per_token(nats, tokens)
            bits = bits_per_character(mean, self.data.characters_per_token.get(split, 1.0))
            likelihoods.append({"name": name, "kind": measured.kinds[name], "nats": mean, "error": error, "bits": bits})
        write_windows(stored.with_suffix(".csv"), measured.windows)
        found = {"of": asked, "windows": len(tokens), "tokens": int(tokens.sum()), "likelihoods": likelihoods}
        write_json(stored, found)
        return found

    def _likelihood_batches(self, split: str) -> int:
        """Of the split, those that the task likelihood takes."""
        batches = len(self.data.eval_dataloader(split))
        return min(batches, self.config.likelihood_batches or batches)

    @rank_zero_only
    def _write_manifest(self) -> None:
        content = manifest.describe(self.run, self.run_dir, self.methods, self.judge_runs, MODELLESS)
        split = self.config.evaluation.likelihood_split
        batches, number = len(self.data.eval_dataloader(split)), self._likelihood_batches(split)
        part = {"part": f"{number} of its {batches} batches, spread evenly"} if number < batches else {}
        write_json(self.run_dir / COMPARISON, content | part)
