"""Decoding: settings of decoders on the same weights and sampling seeds, measured side by side and beside real text.

P prompt tokens.
"""

import re
from contextlib import suppress
from typing import Any

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from experiments.analysis import decoding_table as table
from experiments.analysis import paired
from experiments.analysis.animation import write_gif, write_html
from experiments.analysis.files import write
from experiments.analysis.sweep import analyse
from experiments.analysis.trace import write_trace
from experiments.evaluation.config import DecodingConfig
from experiments.evaluation.decoding_sweep import DecodingSweep
from experiments.evaluation.judges.panel import load_judges
from experiments.evaluation.measurement import HELD_OUT_SPLIT, Assignment, TextEvaluator, Writer
from experiments.evaluation.media import sweep_tables, trace_tables
from experiments.evaluation.plan import Plan, preset_settings
from experiments.evaluation.settings import KEY, ModelSettings, build_settings, notes_of
from experiments.evaluation.tracing import record_trace
from experiments.language_modeling import LanguageModeling
from experiments.run.console import print_rank_zero
from experiments.run.files import write_json

FRONTS = (
    "Front: no other setting beats the row in tokens per second and tokens per forward at once (speed), or in seconds "
    "and the judge's nats (judge), distinct-2 without a judge."
)
MODELLESS = ((table.REAL, table.HELD_OUT),)


class Decoding(LanguageModeling):
    """`sweep`, `ab` and `presets` write results.csv, results.json, results.md, samples.jsonl, samples.txt and analysis/
    into the run folder, and `ab` also ab.json and ab.md.

    What was stopped goes on with resume=; no row is measured twice.
    """

    config_class = DecodingConfig
    config: DecodingConfig
    tasks = (*LanguageModeling.tasks, "sweep", "ab", "presets", "visualize")
    generating_tasks = ("sampling", "sweep", "ab", "presets", "visualize")

    def prepare(self) -> None:
        config, run = self.config, self.run
        self.tables: list[str] = []
        model_settings = ModelSettings(run.algorithm.name, run.plain["algorithm"], run.choices["algorithm/decoder"])
        own_tasks = {"sweep", "ab", "visualize"} & {*config.tasks}
        own = build_settings(model_settings, config.decoders, config.grid) if own_tasks else []
        for note in notes_of(own):
            print_rank_zero(note)
        presets, left_out = preset_settings(model_settings) if "presets" in config.tasks else ([], {})
        judges = load_judges(config.judges) if config.judges else None
        super().prepare()
        if judges is not None:
            judges.check_writer(self.tokenizer)
        if self.data is None:  # sampling alone, from weights that are there
            return
        method = run.chosen("algorithm")
        self.decoding_sweep = DecodingSweep(
            self.run_dir,
            {method: Writer(self.algorithm, self.tokenizer, self.device)},
            TextEvaluator(self.data, judges),
            seeds=config.seeds,
            modelless=MODELLESS,
            progress=run.callbacks.progress,
        )
        sampling = config.sampling
        prompt = self.prompts[0]
        assignment = Assignment(tuple(prompt.ids), prompt.text, sampling.length, sampling.n_samples)
        self.plans: dict[str, Plan] = {}
        labels = [setting.label for setting in own]
        if config.baseline is not None and config.baseline not in labels:
            choice = ", ".join(labels) or "none, as there is no task sweep"
            raise ValueError(
                f"experiment.baseline is '{config.baseline}', which is no setting here: choose from {choice}"
            )
        if own:
            self.plans |= dict.fromkeys(("sweep", "ab", "visualize"), Plan({method: own}, assignment))
            self.decoding_sweep.check(self.plans["sweep"], KEY)
        if presets:
            self.plans["presets"] = Plan({method: presets}, self._preset_assignment(assignment), left_out)
            self.decoding_sweep.check(self.plans["presets"], "task presets")

    @rank_zero_only
    def sweep(self) -> None:
        """Measure every setting at every seed, after one pass that is not recorded, and real text beside them."""
        self._measure("sweep")

    @rank_zero_only
    def ab(self) -> None:
        """The same with two settings, after a pass of each; then their differences, paired by seed, and wins."""
        rows = self._measure("ab", warm_up=("setting",))
        labels = [*(setting.label for setting in self._settings("ab")), table.HELD_OUT]
        compared = paired.compare(*([row for row in rows if row["setting"] == label] for label in labels))
        write_json(self.run_dir / "ab.json", {"seeds": self.config.seeds, "weights": rows[-1]["weights"]} | compared)
        shown = paired.markdown(compared)
        write(self.run_dir / "ab.md", f"{self._about(self.plans['ab'], rows)}\n\n{shown}")
        print_rank_zero(f"\n{shown}")

    @rank_zero_only
    def presets(self) -> None:
        """Measure tiny-diffusion's presets, those that fit the algorithm."""
        for name, reason in self.plans["presets"].left_out.items():
            print_rank_zero(f"{name} is left out: {reason}")
        self._measure("presets")

    @rank_zero_only
    def visualize(self) -> None:
        """Record how every setting writes one text, traces/; animation.gif and .html play them side by side."""
        config, method, seed = self.config.visualize, self.run.chosen("algorithm"), self.config.seeds[0]
        assignment = self.plans["visualize"].assignment._replace(length=config.blocks * self.algorithm.block_size)
        algorithm = self.algorithm.to(self.device).eval()
        records = []
        for setting in self._settings("visualize"):
            trace = record_trace(algorithm, self.tokenizer, assignment, setting, method=method, seed=seed)
            write_trace(self.run_dir / "traces" / f"{re.sub('[^A-Za-z0-9_.=-]+', '_', setting.label)}.json", trace)
            records.append(trace)
        files = [self.run_dir / name for name in ("animation.gif", "animation.html")]
        write_gif(records, files[0], fps=config.fps)
        write_html(records, files[1], fps=config.fps)
        self.log_media(tables=trace_tables(records), files=files)
        in_terminal = f"python -m experiments.analysis.animation {self.run_dir}"
        print_rank_zero(f"{self.run_dir / 'animation.html'}; in the terminal: {in_terminal}")

    def _measure(self, task: str, **options: Any) -> list[table.Row]:
        """The rows of a task's plan; then results.md, the same table printed, and summary.json's account of it."""
        plan, config = self.plans[task], self.config
        self._keep_weights()
        rows = self.decoding_sweep.measure(plan, **options)
        groups = table.aggregate(rows)
        shown = f"{table.markdown_table(groups)}\n{self._flags(groups, plan)}"
        self.tables.append(f"{self._about(plan, rows)}\n{FRONTS}\n\n{shown}")  # of every task of the run
        write(self.run_dir / "results.md", "\n".join(dict.fromkeys(self.tables)))
        print_rank_zero(f"\n{shown}")
        self.summary[task] = {"rows": len(rows), "settings": [setting.label for setting in self._settings(task)]}
        self.summary[task] |= {"seeds": config.seeds, "weights": rows[-1]["weights"], "judge": config.judges}
        self.summary["figures"] |= table.summary_means(groups)
        if plan.left_out:
            self.summary[task]["left_out"] = dict(plan.left_out)
        baseline = config.baseline if task == "sweep" else None
        analysed = analyse([self.run_dir], self.run_dir / "analysis", baseline)
        print_rank_zero(f"analysis of it: {self.run_dir / 'analysis'}")
        pictures = [file for file in analysed if file.suffix == ".png"]
        self.log_media(tables=sweep_tables(self.decoding_sweep.records), files=pictures)
        return rows

    def _settings(self, task: str) -> list[Any]:
        return self.plans[task].settings[self.run.chosen("algorithm")]

    def _keep_weights(self) -> None:
        """Put a link to the weights into the run folder: resume= finds them there."""
        link = self.run_dir / "checkpoints" / "last.ckpt"
        if self.source is None or link.exists():
            return
        try:
            link.hardlink_to(self.source)
        except OSError:  # another file system, or one without hard links
            with suppress(OSError):
                link.symlink_to(self.source.resolve())

    def _preset_assignment(self, assignment: Assignment) -> Assignment:
        """The presets' own length after the configured prompt, or else after how the validation split begins."""
        assignment = assignment._replace(length=self.config.presets.length)
        if assignment.text:
            return assignment
        assert self.data is not None
        ids = self.data.splits[HELD_OUT_SPLIT][: self.config.presets.prompt_tokens].astype(np.int64)  # (P,)
        return assignment._replace(prompt=tuple(ids.tolist()), text=self.tokenizer.decode(ids))

    def _flags(self, groups: list[table.Row], plan: Plan) -> str:
        lines = ["Unlike real text of the same size:"]
        for found in self.decoding_sweep.flags(groups, plan.assignment):
            lines.append(f"- {found['setting']}: {', '.join(found['flags']) or 'nothing'}")
        return "\n".join(lines) + "\n"

    def _about(self, plan: Plan, rows: list[table.Row]) -> str:
        """What stands above a table: amounts, seeds, weights, judges."""
        assignment = plan.assignment
        judges = ", ".join(self.config.judges) or "none, so its column is blank"
        prompt = f" after {assignment.text!r}" if assignment.text else ""
        return (
            f"{assignment.n_samples} × {assignment.length} tokens{prompt} for each of the seeds "
            f"{', '.join(map(str, self.config.seeds))}; mean ± standard deviation over seeds from three seeds on.\n"
            f"Weights: {self.source or self.run_dir} ({rows[-1]['weights']}). GPTJudge: {judges}."
        )
