"""Speed of this machine: training steps of methods x backbones x modes beside a bare loop, and decoders at several
numbers of texts, as tokens per second, as shares of the machine's peak, and by what is handed to the device.

What is timed has first been shown to be right: compiled as eager, in a batch as alone, through the framework as in the
bare loop. Every cell is kept in files as it is made.
"""

import gc
import shutil
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.diffusion_forcing.process.snr_weights import snr_weights
from datasets.data_module import TextDataModule
from experiments.analysis import benchmark as analysis
from experiments.analysis.benchmark import DECODING, FAILED, LEFT_OUT, TRAINING, Row
from experiments.base_experiment import BaseExperiment
from experiments.evaluation.benchmark_config import ON_A_CPU, ON_A_GPU, TRIAL, BenchmarkConfig, Size
from experiments.evaluation.compared_methods import is_part
from experiments.evaluation.settings import ModelSettings, Setting, build_settings, expand, misfit
from experiments.evaluation.speed import decoding, training
from experiments.evaluation.speed.peak import dtype_of, measured_peak, sheet_peak
from experiments.run.build import compose_run, keys_below
from experiments.run.console import print_rank_zero
from experiments.run.errors import sentence
from experiments.run.overrides import key_of
from experiments.run.registry import ALGORITHMS, look_up
from experiments.run.schema import RunConfig
from experiments.run.summary import describe_machine
from experiments.training.compilation import KEY, Choice, compiled, missing_compiler

MINUTES = {"cpu": 10.0}  # of a run, other devices get
MINUTES_ELSEWHERE = 15.0
CHOICES: dict[str, Choice] = {"eager": False, "compiled": True, "graphs": "graphs"}  # as in experiment.training.compile
USUAL = "tiny"  # the backbone of a run that chooses none
GIB = 2**30


class Benchmark(BaseExperiment):
    """Timings go to benchmark.csv, benchmark.json and plots/, the most important ones to summary.json."""

    config_class = BenchmarkConfig
    config: BenchmarkConfig
    tasks = (DECODING, TRAINING, "loss_weights")
    needs_weights = False  # speed does not depend on them, but for decoders that decide by what they read
    folders = ("plots",)

    def prepare(self) -> None:
        self._began = time.perf_counter()
        self._check_overrides()
        kind, self.dtype = self.device.type, dtype_of(str(self.evaluator.precision))
        self.minutes = self.config.minutes or MINUTES.get(kind, MINUTES_ELSEWHERE)
        self.modes = self._modes()
        self.backbones = self._backbones()
        self.runs = {
            (method, backbone): self._composed(method, backbone)
            for backbone in self.backbones
            for method in self.config.methods
        }
        first, decoders = next(iter(self.backbones)), DECODING in self.config.tasks
        self.settings = self._settings(first) if decoders else {}
        self.data = {backbone: self._data(backbone, size) for backbone, size in self.backbones.items()}
        self.rows: list[Row] = []
        self.flops: dict[tuple[str, str], float] = {}  # of a step
        self.longest: dict[tuple[str, str | None], float] = {}  # seconds of a cell, by task and mode

    @rank_zero_only
    def training_speed(self) -> None:
        """Training steps of every method on every backbone, first of all eager; a bare loop in turn with each."""
        self._share_time(TRAINING)
        for mode in self.modes:
            for method, backbone in self.runs:
                batch, length = self.backbones[backbone].batch_size, self.data[backbone].block_size
                row = Row(TRAINING, method, backbone, batch, length, mode=mode)
                self._cell(row, partial(self._timed_training, method, backbone, mode))
        shutil.rmtree(self.run_dir / "scratch", ignore_errors=True)
        self._show(TRAINING)

    @rank_zero_only
    def decoding_speed(self) -> None:
        """Every method's decoders, on the first backbone, at every number of texts, which fill one context at most."""
        self._share_time(DECODING)
        backbone = next(iter(self.backbones))
        length = min(self.config.sampling.length, self.data[backbone].block_size)
        numbers = sorted(number for number in self.config.texts if number <= self.config.sampling.n_samples)
        for method, settings in self.settings.items():
            model = self._model(method, backbone).to(self.device).eval()
            for setting in settings:
                known: list[tuple[int, float]] = []
                for texts in numbers:
                    row = Row(DECODING, method, backbone, texts, length, decoder=setting.label)
                    seconds = decoding.expected_seconds(known, texts)
                    if seconds is not None and seconds > decoding.PATIENCE:
                        self._keep(replace(row, status=LEFT_OUT, reason=f"a round would take about {seconds:.0f} s"))
                        continue
                    row = self._cell(row, partial(self._timed_texts, model, setting, row))
                    if row.tokens_per_second:
                        known.append((texts, texts * length / row.tokens_per_second))
        self._show(DECODING)

    def loss_weights(self) -> None:
        """Calls per second of the fused-SNR weights, and of the original's loop over tokens, at T = 1024, B = 16."""
        snr = torch.rand(16, 1024, generator=torch.Generator().manual_seed(0)) * 20
        fast = partial(snr_weights, snr, "pred_noise", snr_clip=5.0, decay=0.95)
        slow = partial(loop_weights, snr, snr_clip=5.0, decay=0.95)
        torch.testing.assert_close(fast(), slow(), rtol=1e-5, atol=1e-6)
        pairs = [(_rate(fast, 100), _rate(slow, 10)) for _ in range(self.config.rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        self.summary["figures"]["benchmark/loss_weights/ratio"] = ratio
        self.summary["loss_weights"] = {"columns": ["vectorised", "loop"], "calls_per_second": pairs}
        print_rank_zero(f"loss_weights: {ratio:.3g} times as fast as a loop over tokens")

    def begin(self) -> None:
        super().begin()
        self.peak = measured_peak(self.device, self.dtype)

    @property
    def about(self) -> dict[str, Any]:
        """What was measured on."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        number = torch.get_num_threads()
        threads = f", {number} thread{'s' * (number > 1)}" if self.device.type == "cpu" else ""
        return {
            "device": f"{name}{threads}",
            "dtype": str(self.dtype).removeprefix("torch."),
            "peak_flops": self.peak,
            "sheet_flops": sheet_peak(self.device, self.dtype),
            **describe_machine(),
        }

    def _measure_peak(self) -> None:
        """Measure the peak anew: neighbours may have hidden it before, and then all shares of it were too large."""
        now = measured_peak(self.device, self.dtype)
        if now > self.peak:
            self.rows = [row.of_higher_peak(self.peak / now) for row in self.rows]
            self.peak = now

    def run_tasks(self) -> None:
        super().run_tasks()
        failed = [row.name for row in self.rows if row.status == FAILED]
        if failed:
            raise ValueError(f"{', '.join(failed)} failed, for the reasons in {self.run_dir / analysis.FILE}")

    def _timed_training(self, method: str, backbone: str, mode: str) -> dict[str, Any]:
        """The figures of a cell of training. Raises Disagreement where its computations differ."""
        subject = training.Subject(
            model=self._model(method, backbone),
            data=self.data[backbone],
            device=self.device,
            dtype=self.dtype,
            context=self.evaluator.strategy.precision_plugin.forward_context,
            run=self.run,
            training=replace(
                self.config.training, batch_size=self.backbones[backbone].batch_size, accumulate_grad_batches=1
            ),
            scratch=self.run_dir / "scratch",
        )
        eager = training.losses_and_gradients(subject)
        if (method, backbone) not in self.flops:
            self.flops[method, backbone] = training.step_flops(subject)
        with compiled(subject.model, CHOICES[mode]):
            began = time.perf_counter()
            training.check_same(subject, eager, mode)
            seconds = time.perf_counter() - began
            self._forget_memory()
            found = training.arms(subject, self.config.rounds)
            memory = self._memory()
            handed = training.step_dispatches(subject)
        self._measure_peak()
        of_peak = self.flops[method, backbone] / subject.tokens / self.peak
        return {
            **found,
            **handed._asdict(),
            "flops": self.flops[method, backbone],
            "mfu": found["tokens_per_second"] * of_peak,
            "bare_mfu": found["bare_tokens_per_second"] * of_peak,
            "memory_gib": memory,
            "compile_seconds": None if mode == "eager" else seconds,
        }

    def _timed_texts(self, model: BaseAlgorithm, setting: Setting, row: Row) -> dict[str, Any]:
        self._forget_memory()
        prompt = [self.data[row.backbone].tokenizer.start_id]
        found = decoding.timed_texts(
            model,
            setting.decoder,
            prompt,
            texts=row.batch,
            length=row.length,
            rounds=self.config.rounds,
            context=self.evaluator.strategy.precision_plugin.forward_context,
        )
        return {**found, "memory_gib": self._memory()}

    def _share_time(self, task: str) -> None:
        """Give a task its share of the time that is left: all tasks behind it get as much."""
        tasks, now = self.config.tasks, time.perf_counter()
        left = self._began + 60 * self.minutes - now
        self.deadline = now + left / (len(tasks) - tasks.index(task))

    def _cell(self, row: Row, measure: Callable[[], dict[str, Any]]) -> Row:
        """The row with what `measure` finds, kept; with the reason where there is no time for it, or where it fails."""
        kind, began = (row.task, row.mode), time.perf_counter()
        if self.deadline - began <= self.longest.get(kind, 0.0):
            return self._keep(replace(row, status=LEFT_OUT, reason=f"experiment.minutes={self.minutes:g} are too few"))
        try:
            row = replace(row, **measure())
        except Exception as error:  # one cell that does not work must not cost the others
            reason = sentence(error, []).replace(f"say {KEY}=false", "leave it out of experiment.modes")
            row = replace(row, status=FAILED, reason=reason)
            with (self.run_dir / "error.log").open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
        gc.collect()
        self.longest[kind] = max(self.longest.get(kind, 0.0), time.perf_counter() - began)
        return self._keep(row)

    def _keep(self, row: Row) -> Row:
        self.rows.append(row)
        for one in self.rows:  # shares of a peak that has turned out to be higher, too
            self.summary["figures"] |= one.figures
        analysis.write_rows(self.run_dir, self.about, self.rows)
        if row.status != LEFT_OUT:  # of which the table tells at the end of the task
            print_rank_zero(row.line)
        return row

    def _show(self, task: str) -> None:
        """The table of a task, and the plots of all rows so far."""
        print_rank_zero(analysis.tables(self.about, [row for row in self.rows if row.task == task]))
        columns = [name for name in Row.__dataclass_fields__ if name != "rounds"]
        table = (columns, [[getattr(row, name) for name in columns] for row in self.rows])
        self.log_media(tables={"benchmark": table}, files=analysis.draw(self.run_dir, self.about, self.rows))

    def _modes(self) -> list[str]:
        """Those asked for, or all that the device has, but for a trial. Raises ValueError on those that it lacks."""
        kind, modes = self.device.type, self.config.modes
        if TRAINING not in self.config.tasks:
            return []
        missing = missing_compiler() if kind == "cpu" else None
        if modes is None:
            if self.config.training.max_steps < TRIAL or kind not in ("cpu", "cuda"):
                return ["eager"]
            if missing:
                print_rank_zero(f"note: nothing is timed compiled, for which there is no {missing} (a C++ compiler)")
                return ["eager"]
            return ["eager", "compiled", *(["graphs"] if kind == "cuda" else [])]
        if "graphs" in modes and kind != "cuda":
            raise ValueError(f"experiment.modes holds graphs, which are CUDA's, and this is {kind}: leave it out")
        if "compiled" in modes and missing:
            raise ValueError(f"experiment.modes holds compiled, for which there is no {missing}: leave it out")
        return [*modes]

    def _backbones(self) -> dict[str, Size]:
        """Those of the config, the one that the command line has chosen, or those of the device."""
        chosen, said = self.run.choices["algorithm/backbone"], [key_of(one) for one in self.run.overrides]
        if self.config.backbones is not None and "algorithm/backbone" in said:
            raise ValueError(
                f"algorithm/backbone={chosen} is one backbone, and experiment.backbones names those to be timed: leave "
                "one of them out"
            )
        if self.config.backbones is None and (chosen != USUAL or "algorithm/backbone" in said):
            return {chosen: Size(self.config.training.batch_size)}
        if "experiment.training.batch_size" in said:
            print_rank_zero("note: experiment.training.batch_size makes no difference: experiment.backbones has sizes")
        if self.config.backbones is not None:
            return self.config.backbones
        return ON_A_CPU if self.device.type == "cpu" else ON_A_GPU

    def _composed(self, method: str, backbone: str) -> RunConfig:
        """The run that would train a method on a backbone, without dropout: compiled code draws it in another way."""
        parts = [override for override in self.run.overrides if is_part(override)]
        overrides = [f"algorithm={method}", f"algorithm/backbone={backbone}", "algorithm.backbone.dropout=0.0", *parts]
        try:
            return compose_run([*overrides, "experiment=language_modeling"])
        except Exception as error:
            raise ValueError(f"experiment.methods: {method}: {sentence(error, overrides)}") from error

    def _settings(self, backbone: str) -> dict[str, list[Setting]]:
        """Each method's decoders: its own, and those of the config that fit it."""
        found = {}
        entries = expand(self.config.decoders, None) if self.config.decoders else []
        for method in self.config.methods:
            run = self.runs[method, backbone]
            model = ModelSettings(run.algorithm.name, run.plain["algorithm"], run.choices["algorithm/decoder"])
            fitting = [{name: options} for name, options in entries if name and misfit(model, name) is None]
            own: Any = {model.decoder: {}}
            found[method] = build_settings(model, [own, *(one for one in fitting if one != own)], None)
        return found

    def _data(self, backbone: str, size: Size) -> TextDataModule:
        config = self.runs[self.config.methods[0], backbone].algorithm.backbone
        with keys_below("dataset", self.run.dataset):
            return TextDataModule(
                self.run.dataset,
                block_size=config.block_size,
                batch_size=size.batch_size,
                eval_batch_size=self.config.evaluation.batch_size,
                seed=self.run.seed,
            ).prepare()

    def _model(self, method: str, backbone: str) -> BaseAlgorithm:
        """Fresh weights. A vocabulary beyond the corpus' costs what it would with any text."""
        config = self.runs[method, backbone].algorithm
        return look_up(ALGORITHMS, config.name, "algorithm.name")(
            config,
            vocabulary_size=self.backbones[backbone].vocabulary_size or self.data[backbone].vocabulary_size,
            total_steps=self.config.training.max_steps + training.WARM_UP,
            seed=self.run.seed,
        )

    def _check_overrides(self) -> None:
        """Raise ValueError on what chooses the one method of other experiments, and on several processes."""
        if self.run.load is not None:
            raise ValueError("load= is for one model, and a benchmark times fresh weights of several: leave it out")
        for override in self.run.overrides:
            key = key_of(override)
            if key == "algorithm":
                raise ValueError(
                    f"{override} chooses one method, and a benchmark has experiment.methods: name it there"
                )
            if key.startswith("algorithm") and not is_part(override):
                raise ValueError(f"{key} is of one method, and a benchmark has several: leave it out")
        if self.evaluator.world_size > 1:
            raise ValueError("trainer.devices: a benchmark is of one process: say trainer.devices=1")

    def _forget_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def _memory(self) -> float | None:
        """GiB that tensors took at most since then; None off CUDA, where nobody counts them."""
        return torch.cuda.max_memory_allocated(self.device) / GIB if self.device.type == "cuda" else None


def loop_weights(snr: torch.Tensor, *, snr_clip: float, decay: float) -> torch.Tensor:
    """Fused-SNR weights (B, T) for pred_noise from snr (B, T), token by token as the original program walks them."""
    signal = snr / snr_clip
    clipped = signal.clamp(max=1.0)
    average = torch.zeros_like(clipped)
    for t in range(clipped.size(1)):
        average[:, t] = clipped[:, t] if t == 0 else decay * average[:, t - 1] + (1 - decay) * clipped[:, t]
    past = torch.cat([torch.zeros_like(average[:, :1]), average[:, :-1]], dim=1)
    clipped_fused = 1 - (1 - past * decay) * (1 - clipped)
    fused = 1 - (1 - past * decay) * (1 - signal)
    return clipped_fused / fused


def _rate(call: Callable[[], Any], times: int) -> float:
    """Calls on the CPU per second, after one that is not counted."""
    call()
    began = time.perf_counter()
    for _ in range(times):
        call()
    return times / (time.perf_counter() - began)
