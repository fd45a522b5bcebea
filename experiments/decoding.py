"""Decoding: settings of decoders on the same weights and sampling seeds, measured side by side and beside real text.

B texts of one seed, P prompt tokens, L = P + length tokens.
"""

import copy
import statistics
import time
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from algorithms.common.metrics.corpus import FIGURES, CorpusReference, unlike_real_text
from algorithms.common.metrics.text import text_statistics
from experiments.analysis import decoding_table as table
from experiments.analysis import paired
from experiments.base_experiment import rank_zero_only, say
from experiments.decoder_settings import KEY, Setting, build_settings
from experiments.decoding_config import DecodingConfig
from experiments.decoding_plan import Job, Plan, jobs_of, preset_settings
from experiments.decoding_records import DecodingRecords
from experiments.judge import Judge, fingerprint, load_judge
from experiments.language_modeling import LanguageModeling
from experiments.summary import write_json

HELD_OUT_SPLIT = "val"
REAL_DRAWS = 8  # samples of real text that say how far its figures range
REFERENCE_TOKENS = 5_000_000  # of each split, for the figures of a text against its corpus: 60 bytes each while sorted
FRONTS = (
    "Front: no other setting beats the row in tokens per second and tokens per forward at once (speed), or in seconds "
    "and the judge's nats (judge), distinct-2 without a judge."
)


class Texts(NamedTuple):
    """What is measured: texts, what each continues, where each is from, and what they cost together."""

    texts: list[str]
    prompts: list[str]
    origins: list[int]  # sampling seeds; of real text, positions in its split
    cost: dict[str, float]


class Decoding(LanguageModeling):
    """`sweep`, `ab` and `presets` write results.csv, results.json, results.md, samples.jsonl and samples.txt into the
    run folder, and `ab` also ab.json and ab.md.

    What was stopped goes on with resume=; no row is measured twice.
    """

    config_class = DecodingConfig
    config: DecodingConfig
    tasks = (*LanguageModeling.tasks, "sweep", "ab", "presets")
    generating_tasks = ("sampling", "sweep", "ab", "presets")

    def prepare(self) -> None:
        config = self.config
        self.records = DecodingRecords(self.run_dir)
        self.tables: list[str] = []
        own = build_settings(self.run, config.decoders, config.grid) if {"sweep", "ab"} & set(config.tasks) else []
        presets, left_out = preset_settings(self.run) if "presets" in config.tasks else ([], {})
        self.judge: Judge | None = None if config.judge is None else load_judge(config.judge)
        super().prepare()
        if self.judge is not None:
            self.judge.check_writer(self.tokenizer)
        self.plans: dict[str, Plan] = {}
        if own:
            plan = Plan(own, self.prompt, config.sampling.prompt, config.sampling.length, KEY, {})
            self.plans |= {"sweep": plan, "ab": plan}
        if presets:
            prompt, text = self._preset_prompt()
            self.plans["presets"] = Plan(presets, prompt, text, config.presets.length, "task presets", left_out)
        for plan in self.plans.values():
            self._check_plan(plan)

    @rank_zero_only
    def sweep(self) -> None:
        """Measure every setting at every seed, after one pass that is not recorded, and real text beside them."""
        self._measure_plan("sweep")

    @rank_zero_only
    def ab(self) -> None:
        """The same with two settings, after a pass of each; then their differences, paired by seed, and wins."""
        rows = self._measure_plan("ab", unrecorded=2)
        labels = [*(setting.label for setting in self.plans["ab"].settings), table.HELD_OUT]
        compared = paired.compare(*([row for row in rows if row["setting"] == label] for label in labels))
        write_json(self.run_dir / "ab.json", {"seeds": self.config.seeds, "weights": rows[0]["weights"]} | compared)
        shown = paired.markdown(compared)
        (self.run_dir / "ab.md").write_text(f"{self._about(self.plans['ab'], rows)}\n\n{shown}", encoding="utf-8")
        say(f"\n{shown}")

    @rank_zero_only
    def presets(self) -> None:
        """Measure tiny-diffusion's presets, those that fit the algorithm."""
        for name, reason in self.plans["presets"].left_out.items():
            say(f"{name} is left out: {reason}")
        self._measure_plan("presets")

    def _measure_plan(self, task: str, unrecorded: int = 1) -> list[table.Row]:
        """All rows of a task's plan, those that are not there yet measured after some passes that warm up."""
        plan = self.plans[task]
        self._keep_weights()
        self.records.begin()
        self.algorithm.to(self.device).eval()
        if self.judge is not None:
            self.judge.algorithm.to(self.device)
        jobs = self._jobs(plan)
        todo = [job for job in jobs if job.identity not in self.records]
        if len(todo) < len(jobs):
            say(f"{len(jobs) - len(todo)} of {len(jobs)} rows are there already")
        for job in todo:
            if job.setting is None:
                self._measure(job, self._held_out(plan, job.identity["seed"]))
        passes = [(job, job.setting) for job in todo if job.setting is not None]
        for job, setting in passes[:unrecorded]:
            self._generate(plan, setting, job.identity["seed"])
        began = time.perf_counter()
        for done, (job, setting) in enumerate(passes, 1):
            row = self._measure(job, self._generate(plan, setting, job.identity["seed"]))
            left = int((time.perf_counter() - began) / done * (len(passes) - done))
            if self.run.callbacks.progress:
                cost = f"{row['seconds']:.2f} s, {row['tokens_per_forward']:.2f} tokens/forward"
                where = f"{done}/{len(passes)}  {setting.label}, seed {row['seed']}"
                say(f"{where}: {cost}, {left // 60}:{left % 60:02d} left")
        rows = [self.records.rows[table.identity(job.identity)] for job in jobs]
        self._conclude(task, plan, rows)
        return rows

    @cached_property
    def reference(self) -> CorpusReference:
        """The corpus that texts are measured by; of a large one the beginning, so that a copy rate is a lower bound."""
        assert self.data is not None
        parts = [self.data.splits[name][:REFERENCE_TOKENS].astype(np.int64) for name in ("train", HELD_OUT_SPLIT)]
        return CorpusReference(*map(self.tokenizer.decode, parts))

    @property
    def device(self) -> torch.device:
        return self._evaluation_trainer().strategy.root_device

    def _check_average(self) -> None:
        if self.trains:  # a sweep samples from the weights as they are, averaged or not
            super()._check_average()

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

    def _preset_prompt(self) -> tuple[list[int], str]:
        """The prompt of the presets: the configured one, or how the validation split begins."""
        if self.config.sampling.prompt:
            return self.prompt, self.config.sampling.prompt
        assert self.data is not None
        ids = self.data.splits[HELD_OUT_SPLIT][: self.config.presets.prompt_tokens].astype(np.int64)  # (P,)
        return ids.tolist(), self.tokenizer.decode(ids)

    def _check_plan(self, plan: Plan) -> None:
        """Raise ValueError, with the setting's label, on what does not fit the model."""
        for setting in plan.settings:
            probe = copy.copy(self.algorithm)  # the same weights
            probe.config = setting.algorithm
            try:
                probe.check_generation(plan.length, prompt_length=len(plan.prompt))
            except ValueError as error:
                raise ValueError(f"{plan.key}: {setting.label}: {error}") from error

    def _jobs(self, plan: Plan) -> list[Job]:
        assert self.data is not None
        real = len(self.data.splits[HELD_OUT_SPLIT]) >= len(plan.prompt) + plan.length
        if not real:
            say(f"the {HELD_OUT_SPLIT} split is shorter than a sample: the table has no row of real text")
        shared = {
            "n_samples": self.config.sampling.n_samples,
            "weights": fingerprint(self.algorithm),
            "judge": self.judge.fingerprint if self.judge else None,
        }
        return jobs_of(plan, self.config.seeds, shared, real=real)

    def _generate(self, plan: Plan, setting: Setting, seed: int) -> Texts:
        """Continue the prompt n_samples times; every setting gets the same sampling seeds."""
        B, length = self.config.sampling.n_samples, plan.length
        seeds = [seed * 1_000_000 + i for i in range(B)]
        prompt = torch.tensor(plan.prompt, device=self.device).expand(B, -1)  # (B, P)
        compiled = self.config.training.compile  # for windows of one length, and here lengths differ at every step
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            began = _now(self.device)
            out = self.algorithm.generate(prompt, length=length, seeds=seeds, decoder=setting.decoder)
            seconds = _now(self.device) - began
        texts = [self.tokenizer.decode(row[len(plan.prompt) :]) for row in out.ids.cpu()]
        cost = {
            "seconds": seconds,
            "tokens_per_second": B * length / seconds,
            "steps": out.steps,
            "forwards": out.forwards,
            "tokens_per_forward": out.tokens_per_forward,
        }
        return Texts(texts, [plan.text] * B, seeds, cost)

    def _held_out(self, plan: Plan, seed: int) -> Texts:
        """As much real text: windows of the validation split, their first P tokens in the place of the prompt."""
        assert self.data is not None
        split = self.data.splits[HELD_OUT_SPLIT]
        P, width = len(plan.prompt), len(plan.prompt) + plan.length
        starts = np.random.default_rng(seed).integers(len(split) - width + 1, size=self.config.sampling.n_samples)
        windows = [split[start : start + width].astype(np.int64) for start in starts]  # (P + length,) each
        texts = [self.tokenizer.decode(window[P:]) for window in windows]
        return Texts(texts, [self.tokenizer.decode(window[:P]) for window in windows], starts.tolist(), {})

    def _measure(self, job: Job, found: Texts) -> table.Row:
        """The row of a job, kept in the records: what was not measured stays None."""
        statistic = [text_statistics(text) for text in found.texts]
        means = {name: statistics.fmean(each[name] for each in statistic) for name in statistic[0]}
        if job.setting is None:  # real text is measured by the other half of its split
            means |= self.reference.real_text([len(text) for text in found.texts], draw=job.identity["seed"])
        else:
            means |= self.reference.score(found.texts)
        judged = self.judge.nats_per_character(found.texts, found.prompts) if self.judge else None
        row = dict.fromkeys(table.COLUMNS) | job.identity | found.cost | means | {"judge_nll": judged}
        self.records.add(row, found.origins, found.texts)
        return row

    def _conclude(self, task: str, plan: Plan, rows: list[table.Row]) -> None:
        """results.md, the same table printed, and where the figures are from in summary.json."""
        config = self.config
        groups = table.aggregate(rows)
        shown = f"{table.markdown_table(groups)}\n{self._flags(groups)}"
        self.tables.append(f"{self._about(plan, rows)}\n{FRONTS}\n\n{shown}")  # of every task of the run
        (self.run_dir / "results.md").write_text("\n".join(dict.fromkeys(self.tables)), encoding="utf-8")
        say(f"\n{shown}")
        self.summary[task] = {"rows": len(rows), "settings": [setting.label for setting in plan.settings]}
        self.summary[task] |= {"seeds": config.seeds, "weights": rows[0]["weights"], "judge": config.judge}
        if plan.left_out:
            self.summary[task]["left_out"] = plan.left_out

    def _flags(self, groups: list[table.Row]) -> str:
        """Which figures of each setting lie clearly outside of what real text of the same size has."""
        lines = [f"Unlike real text of the same size, by {REAL_DRAWS} draws of it:"]
        for group in groups:
            if group["setting"] == table.HELD_OUT:
                continue
            lengths = [round(group["text_length"].mean)] * group["n_samples"]
            real = [self.reference.real_text(lengths, draw) for draw in range(REAL_DRAWS)]
            figures = {name: group[name].mean for name in FIGURES if group[name] is not None}
            lines.append(f"- {group['setting']}: {', '.join(unlike_real_text(figures, real)) or 'nothing'}")
        return "\n".join(lines) + "\n"

    def _about(self, plan: Plan, rows: list[table.Row]) -> str:
        """What stands above a table: amounts, seeds, weights, judge."""
        judge = self.config.judge or "none, so its column is blank"
        prompt = f" after {plan.text!r}" if plan.text else ""
        return (
            f"{self.config.sampling.n_samples} × {plan.length} tokens{prompt} for each of the seeds "
            f"{', '.join(map(str, self.config.seeds))}; mean ± standard deviation over seeds from three seeds on.\n"
            f"Weights: {self.source or self.run_dir} ({rows[0]['weights']}). Judge: {judge}."
        )


def _now(device: torch.device) -> float:
    """The clock, once the device has done what it was told."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()
