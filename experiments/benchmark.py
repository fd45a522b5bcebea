"""Timings: the framework beside a bare PyTorch loop, vectorised loss weights beside a plain loop, batched decoding
beside single texts, and decoding with a cache beside decoding without.

Both arms of a comparison run in turn, A B A B ..., in one process, so that a drift of the machine hits both; ratios
are taken pair by pair and their median is reported. B batch, T tokens.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field
from itertools import islice
from typing import Any, ClassVar

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from pydantic.dataclasses import dataclass

from algorithms.common.backbone import Backbone
from algorithms.common.decoder import Generation, Request
from algorithms.common.device import now
from algorithms.common.fields import STRICT, Count
from algorithms.diffusion_forcing.process.snr_weights import snr_weights
from experiments.language_modeling import LanguageModeling
from experiments.run.console import print_rank_zero
from experiments.run.schema import EvaluationConfig, LanguageModelingConfig, SamplingConfig, TrainingConfig


@dataclass(frozen=True, config=STRICT)
class BenchmarkConfig(LanguageModelingConfig):
    """`experiment=benchmark`: `rounds` pairs of training.max_steps steps, of which the first tenth is not timed."""

    name: str = "benchmark"
    tasks: list[str] = field(default_factory=lambda: ["training_speed", "loss_weights"])
    rounds: Count = 12
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(max_steps=66, val_every_steps=1000, checkpoint_every_steps=1000)
    )
    evaluation: EvaluationConfig = field(default_factory=lambda: EvaluationConfig(max_batches=1))
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(n_samples=16, length=128))

    parts_of_tasks: ClassVar[dict[str, tuple[str, ...]]] = {
        "sampling": ("decoding_speed", "cached_decoding"),
        **{f"sampling.{key}": () for key in ("prompt", "prompt_file", "suffix", "stop")},
    }

    def __post_init__(self) -> None:
        if self.training.max_steps < 2:
            raise ValueError("training.max_steps is below 2: nothing would be timed after the warm-up")

    @property
    def warmup_steps(self) -> int:
        return max(1, self.training.max_steps // 10)


class Stopwatch(Callback):
    """Seconds from the end of step `warmup` to the end of the last step of training."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.began = 0.0
        self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.warmup:
            self.began = now(pl_module.device)
        elif trainer.global_step == trainer.max_steps:
            self.seconds = now(pl_module.device) - self.began


@contextmanager
def timed_backbones(model: LightningModule) -> Iterator[list[float]]:
    """A list that gets the seconds of every pass of the model's backbones while entered."""
    passes: list[float] = []

    def begin(*_: Any) -> None:
        passes.append(-now(model.device))

    def end(*_: Any) -> None:
        passes[-1] += now(model.device)

    backbones = [module for module in model.modules() if isinstance(module, Backbone)]
    hooks = [one.register_forward_pre_hook(begin) for one in backbones]
    hooks += [one.register_forward_hook(end) for one in backbones]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


class Benchmark(LanguageModeling):
    """Paired timings of this machine; figures and all rounds go to summary.json."""

    config_class = BenchmarkConfig
    config: BenchmarkConfig
    tasks = ("training_speed", "loss_weights", "decoding_speed", "cached_decoding")
    training_tasks = tasks  # nothing here needs trained weights

    def training_speed(self) -> None:
        """Steps per second of the configured method through the whole framework, and through a bare loop."""
        steps = self.config.training.max_steps - self.config.warmup_steps
        pairs = [(steps / self._framework(), steps / self._bare_loop()) for _ in range(self.config.rounds)]
        self._record("training_speed", pairs, "framework_steps_per_second", "bare_loop_steps_per_second")

    def loss_weights(self) -> None:
        """Calls per second of the fused-SNR weights, and of the original's loop over tokens, at T = 1024, B = 16."""
        snr = torch.rand(16, 1024, generator=torch.Generator().manual_seed(0)) * 20
        fast = snr_weights(snr, "pred_noise", snr_clip=5.0, decay=0.95)
        slow = loop_weights(snr, snr_clip=5.0, decay=0.95)
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
        pairs = [
            (
                _rate(lambda: snr_weights(snr, "pred_noise", snr_clip=5.0, decay=0.95), 100),
                _rate(lambda: loop_weights(snr, snr_clip=5.0, decay=0.95), 10),
            )
            for _ in range(self.config.rounds)
        ]
        self._record("loss_weights", pairs, "vectorised_per_second", "loop_per_second")

    def decoding_speed(self) -> None:
        """Tokens per second of sampling.n_samples texts in one call, and in as many calls; what a decoding step adds to
        the forward of the backbone, in either; and the share of equal tokens, 1 on a CPU, as a GPU rounds by batch."""
        config = self.config.sampling
        model = self.algorithm.to(self.device).eval()
        seeds = list(range(config.n_samples))
        with timed_backbones(model) as passes:

            def generate(rows: slice) -> tuple[torch.Tensor, float, float]:
                """Ids, seconds, and the share of the backbone's time that everything else took."""
                passes.clear()
                out = model.generate(self._asked(seeds[rows], model.device))
                return out.ids, out.seconds, out.seconds / sum(passes) - 1

            pairs, overheads, equal = [], [], []
            for _ in range(self.config.rounds + 1):
                together = generate(slice(None))
                alone = [generate(slice(row, row + 1)) for row in range(len(seeds))]
                equal.append(float((together[0] == torch.cat([ids for ids, _, _ in alone])).double().mean()))
                if equal[-1] < 1 and model.device.type == "cpu":
                    raise RuntimeError("a batch gave other texts than its rows one by one")
                tokens = len(seeds) * config.length
                pairs.append((tokens / together[1], tokens / sum(seconds for _, seconds, _ in alone)))
                overheads.append((together[2], statistics.median(overhead for _, _, overhead in alone)))
        self._record("decoding_speed", pairs[1:], "batched_tokens_per_second", "single_tokens_per_second")  # 0 warms up
        batched, single = zip(*overheads[1:], strict=True)
        for name, values in {"batched_overhead": batched, "single_overhead": single, "equal_tokens": equal}.items():
            key = f"benchmark/{name}"
            self.summary["figures"][key] = statistics.median(values)
            print_rank_zero(f"{key} {self.summary['figures'][key]:.3f} ({min(values):.3f} to {max(values):.3f})")

    def cached_decoding(self) -> None:
        """Tokens per second of sampling.n_samples texts with the decoder's cache, and without it; what either
        computed."""
        config, decoder = self.config.sampling, self.run.algorithm.decoder
        if not hasattr(decoder, "use_cache"):
            raise ValueError(f"algorithm/decoder={decoder.name} has no cache: take one with use_cache, such as pyramid")
        model = self.algorithm.to(self.device).eval()
        arms = [dataclasses.replace(decoder, use_cache=cached) for cached in (True, False)]

        def generate(arm: Any) -> Generation:
            return model.generate(self._asked(range(config.n_samples), model.device), arm)

        rounds = [[generate(arm) for arm in arms] for _ in range(self.config.rounds + 1)][1:]  # the first warms up
        tokens = config.n_samples * config.length
        pairs = [(tokens / cached.seconds, tokens / whole.seconds) for cached, whole in rounds]
        self._record("cached_decoding", pairs, "cached_tokens_per_second", "uncached_tokens_per_second")
        cached, whole = rounds[0]
        figures = {"equal_tokens": float((cached.ids == whole.ids).double().mean())}
        if cached.token_forwards and whole.token_forwards:
            figures["token_forwards_ratio"] = whole.token_forwards / cached.token_forwards
        for name, value in figures.items():
            self.summary["figures"][f"benchmark/{name}"] = value
            print_rank_zero(f"  {name} {value:.4g}")

    def _asked(self, seeds: Sequence[int], device: torch.device) -> Request:
        """A text for each seed."""
        return Request.continuing(
            [self.prompts[0].ids] * len(seeds), length=self.config.sampling.length, seeds=seeds, device=device
        )

    def _framework(self) -> float:
        """Seconds of the timed steps through Trainer, loggers and callbacks."""
        assert self.data is not None
        watch = Stopwatch(self.config.warmup_steps)
        trainer = self._trainer()
        trainer.callbacks.insert(0, watch)  # type: ignore[attr-defined]
        trainer.fit(self._build_algorithm(), datamodule=self.data)
        return watch.seconds

    def _bare_loop(self) -> float:
        """Seconds of the timed steps in the shortest loop that trains the same model on the same batches, on the same
        device and in the same precision."""
        assert self.data is not None
        strategy = self.evaluator.strategy
        model = self._build_algorithm().to(self.device).train()
        optimizer = model.configure_optimizers()["optimizer"]
        generator = torch.Generator(self.device).manual_seed(self.run.seed)
        clip = self.config.training.gradient_clip_norm
        began = 0.0
        for step, ids in enumerate(islice(self.data.training_batches(0), self.config.training.max_steps)):
            with strategy.precision_plugin.forward_context():
                loss = model.loss(ids.to(self.device), generator)["loss"]
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if step + 1 == self.config.warmup_steps:
                began = now(self.device)
        return now(self.device) - began

    def _record(self, task: str, pairs: list[tuple[float, float]], ours: str, other: str) -> None:
        ratios = [a / b for a, b in pairs]
        figures = {
            f"benchmark/{ours}": statistics.median(a for a, _ in pairs),
            f"benchmark/{other}": statistics.median(b for _, b in pairs),
            f"benchmark/{task}_ratio": statistics.median(ratios),
        }
        self.summary["figures"] |= figures
        self.summary[task] = {"columns": [ours, other], "rounds": pairs, "ratios": ratios}
        print_rank_zero("  ".join(f"{key.removeprefix('benchmark/')} {value:.4g}" for key, value in figures.items()))
        print_rank_zero(f"  ratio over {len(ratios)} rounds: {min(ratios):.4g} to {max(ratios):.4g}")


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
