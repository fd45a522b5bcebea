"""Decoding: settings of decoders on the same weights and sampling seeds, measured side by side and beside real text.

B texts of one seed, P prompt tokens, L = P + length tokens.
"""

import copy
import statistics
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from algorithms.common.metrics.text import text_statistics
from experiments.analysis import decoding_table as table
from experiments.base_experiment import rank_zero_only, say
from experiments.config import LanguageModelingConfig
from experiments.decoder_settings import Setting, build_settings, expand
from experiments.decoding_records import DecodingRecords
from experiments.judge import Judge, fingerprint, load_judge
from experiments.language_modeling import LanguageModeling

HELD_OUT_SPLIT = "val"


@dataclass(frozen=True)
class DecodingConfig(LanguageModelingConfig):
    """`experiment=decoding`: decoders x grid x seeds, `sampling.n_samples` texts of `sampling.length` tokens each."""

    name: str = "decoding"
    tasks: list[str] = field(default_factory=lambda: ["sweep"])
    decoders: Any = None
    grid: dict[str, Any] | None = None
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    judge: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        expand(self.decoders, self.grid)
        if self.sampling.suffix:
            raise ValueError(
                "experiment.sampling.suffix plays no part in a sweep, which continues prompts: leave it empty"
            )
        if not self.seeds:
            raise ValueError("experiment.seeds is empty: give at least one, and three for a spread")
        if min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"experiment.seeds is {self.seeds}: give different whole numbers, 0 or above")


class Job(NamedTuple):
    """One row to be made: its identity, and its setting, None for real text."""

    identity: table.Row
    setting: Setting | None


class Texts(NamedTuple):
    """What is measured: texts, what each continues, where each is from, and what they cost together."""

    texts: list[str]
    prompts: list[str]
    origins: list[int]  # sampling seeds; of real text, positions in its split
    cost: dict[str, float]


class Decoding(LanguageModeling):
    """`sweep` writes results.csv, results.json, results.md, samples.jsonl and samples.txt into the run folder.

    A sweep that was stopped goes on with resume=; no row is measured twice.
    """

    config_class = DecodingConfig
    config: DecodingConfig
    tasks = (*LanguageModeling.tasks, "sweep")
    generating_tasks = ("sampling", "sweep")

    def prepare(self) -> None:
        config = self.config
        self.records = DecodingRecords(self.run_dir)
        self.settings = build_settings(self.run, config.decoders, config.grid)
        self.judge: Judge | None = None if config.judge is None else load_judge(config.judge)
        super().prepare()
        if self.judge is not None:
            self.judge.check_writer(self.tokenizer)
        for setting in self.settings:
            probe = copy.copy(self.algorithm)  # the same weights
            probe.config = setting.algorithm
            try:
                probe.check_generation(config.sampling.length, prompt_length=len(self.prompt))
            except ValueError as error:
                raise ValueError(f"experiment.decoders: {setting.label}: {error}") from error

    @rank_zero_only
    def sweep(self) -> None:
        """Measure every setting at every seed, after one pass that is not recorded, and real text beside them."""
        self._keep_weights()
        self.records.begin()
        self.algorithm.to(self.device).eval()
        if self.judge is not None:
            self.judge.algorithm.to(self.device)
        jobs = self._jobs()
        todo = [job for job in jobs if job.identity not in self.records]
        if len(todo) < len(jobs):
            say(f"{len(jobs) - len(todo)} of {len(jobs)} rows are there already")
        for job in todo:
            if job.setting is None:
                self._measure(job, self._held_out(job.identity["seed"]))
        passes = [(job, job.setting) for job in todo if job.setting is not None]
        if passes:
            self._generate(passes[0][1], passes[0][0].identity["seed"])
        began = time.perf_counter()
        for done, (job, setting) in enumerate(passes, 1):
            row = self._measure(job, self._generate(setting, job.identity["seed"]))
            left = int((time.perf_counter() - began) / done * (len(passes) - done))
            if self.run.callbacks.progress:
                cost = f"{row['seconds']:.2f} s, {row['tokens_per_forward']:.2f} tokens/forward"
                where = f"{done}/{len(passes)}  {setting.label}, seed {row['seed']}"
                say(f"{where}: {cost}, {left // 60}:{left % 60:02d} left")
        self._conclude([self.records.rows[table.identity(job.identity)] for job in jobs])

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

    def _jobs(self) -> list[Job]:
        """All rows of the sweep: real text, then every setting at the first seed, at the second, ..."""
        sampling = self.config.sampling
        shared = {
            "n_samples": sampling.n_samples,
            "length": sampling.length,
            "prompt": sampling.prompt,
            "weights": fingerprint(self.algorithm),
            "judge": self.judge.fingerprint if self.judge else None,
        }
        assert self.data is not None
        jobs = []
        if len(self.data.splits[HELD_OUT_SPLIT]) >= len(self.prompt) + sampling.length:
            real = {"setting": table.HELD_OUT, "options": None, "decoder": None}
            jobs = [Job(real | {"seed": seed} | shared, None) for seed in self.config.seeds]
        else:
            say(f"the {HELD_OUT_SPLIT} split is shorter than a sample: the table has no row of real text")
        for seed in self.config.seeds:
            for setting in self.settings:
                own = {"setting": setting.label, "options": setting.options, "decoder": setting.plain}
                jobs.append(Job(own | {"seed": seed} | shared, setting))
        return jobs

    def _generate(self, setting: Setting, seed: int) -> Texts:
        """Continue the prompt n_samples times; every setting gets the same sampling seeds."""
        B, length = self.config.sampling.n_samples, self.config.sampling.length
        seeds = [seed * 1_000_000 + i for i in range(B)]
        prompt = torch.tensor(self.prompt, device=self.device).expand(B, -1)  # (B, P)
        compiled = self.config.training.compile  # for windows of one length, and here lengths differ at every step
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            began = _now(self.device)
            out = self.algorithm.generate(prompt, length=length, seeds=seeds, decoder=setting.decoder)
            seconds = _now(self.device) - began
        texts = [self.tokenizer.decode(row[len(self.prompt) :]) for row in out.ids.cpu()]
        cost = {
            "seconds": seconds,
            "tokens_per_second": B * length / seconds,
            "steps": out.steps,
            "forwards": out.forwards,
            "tokens_per_forward": out.tokens_per_forward,
        }
        return Texts(texts, [self.config.sampling.prompt] * B, seeds, cost)

    def _held_out(self, seed: int) -> Texts:
        """As much real text: windows of the validation split, their first P tokens in the place of the prompt."""
        assert self.data is not None
        split = self.data.splits[HELD_OUT_SPLIT]
        P, length = len(self.prompt), self.config.sampling.length
        starts = np.random.default_rng(seed).integers(len(split) - P - length + 1, size=self.config.sampling.n_samples)
        windows = [split[start : start + P + length].astype(np.int64) for start in starts]  # (P + length,) each
        texts = [self.tokenizer.decode(window[P:]) for window in windows]
        return Texts(texts, [self.tokenizer.decode(window[:P]) for window in windows], starts.tolist(), {})

    def _measure(self, job: Job, found: Texts) -> table.Row:
        """The row of a job, kept in the records: what was not measured stays None."""
        statistic = [text_statistics(text) for text in found.texts]
        means = {name: statistics.fmean(each[name] for each in statistic) for name in statistic[0]}
        judged = self.judge.nats_per_character(found.texts, found.prompts) if self.judge else None
        row = dict.fromkeys(table.COLUMNS) | job.identity | found.cost | means | {"judge_nll": judged}
        self.records.add(row, found.origins, found.texts)
        return row

    def _conclude(self, rows: list[table.Row]) -> None:
        """results.md, the same table printed, and where the figures are from in summary.json."""
        config = self.config
        judge = config.judge or "none, so its column is blank"
        prompt = f" after {config.sampling.prompt!r}" if config.sampling.prompt else ""
        about = (
            f"{config.sampling.n_samples} × {config.sampling.length} tokens{prompt} for each of the seeds "
            f"{', '.join(map(str, config.seeds))}; mean ± standard deviation over seeds from three seeds on.\n"
            f"Weights: {self.source or self.run_dir} ({rows[0]['weights']}). Judge: {judge}."
        )
        shown = table.markdown_table(table.aggregate(rows))
        (self.run_dir / "results.md").write_text(f"{about}\n\n{shown}", encoding="utf-8")
        say(f"\n{shown}")
        self.summary["sweep"] = {"rows": len(rows), "settings": [setting.label for setting in self.settings]}
        self.summary["sweep"] |= {"seeds": config.seeds, "weights": rows[0]["weights"], "judge": config.judge}


def _now(device: torch.device) -> float:
    """The clock, once the device has done what it was told."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    return time.perf_counter()
