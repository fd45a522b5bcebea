"""Language modelling: train a method on a corpus, measure its likelihood, sample from it."""

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.decoder import Request
from datasets.config import LOADED
from datasets.data_module import TextDataModule
from datasets.tokenizers import Tokenizer, tokenizer_from_state
from experiments.analysis import curves, plots
from experiments.base_experiment import BaseExperiment
from experiments.evaluation.figures import ERROR, as_line
from experiments.evaluation.likelihood import measure
from experiments.evaluation.samples import Prompt, encoded, read_prompts, read_samples, readable, stop_of, write_samples
from experiments.run import interrupts
from experiments.run.build import keys_below
from experiments.run.console import print_rank_zero
from experiments.run.processes import first_process_first
from experiments.run.registry import ALGORITHMS, look_up
from experiments.run.schema import LanguageModelingConfig
from experiments.training.callbacks import MONITOR, Speed
from experiments.training.checkpoint_callback import Checkpoints
from experiments.training.checkpoints import load_weights, place_of, read_checkpoint, trained_on_other_data
from experiments.training.compilation import Choice, check_choice, compiled, missing_compiler, pays
from experiments.training.memory import check_memory
from experiments.training.trainer import build_trainer, training_callbacks

SHOWN = 2  # samples printed, of those written


class LanguageModeling(BaseExperiment):
    """training, validation, test, likelihood and sampling of one model on one corpus.

    Evaluation and sampling use checkpoints/best.ckpt of this run, or the weights of load=.
    """

    config_class = LanguageModelingConfig
    config: LanguageModelingConfig
    tasks: ClassVar[tuple[str, ...]] = ("training", "validation", "test", "likelihood", "sampling")
    generating_tasks: ClassVar[tuple[str, ...]] = ("sampling",)  # those that continue the prompt

    def prepare(self) -> None:
        if self.trains and (choice := self.config.training.compile) not in (False, "auto"):
            check_choice(choice, self.device, self.config.training.accumulate_grad_batches)
        self.block_size = self._block_size()
        samples = "sampling" in self.config.tasks
        check_memory(self.run.algorithm.backbone, self.config, trains=self.trains, samples=samples)
        self.data: TextDataModule | None = None
        stored = self.checkpoint.get("tokenizer") if self.checkpoint else None
        if stored is not None and set(self.config.tasks) == {"sampling"}:
            if self.run.dataset.tokenizer not in (stored["kind"], LOADED):
                raise ValueError(
                    f"dataset.tokenizer is '{self.run.dataset.tokenizer}', and {self.source} was trained with "
                    f"'{stored['kind']}': leave it out"
                )
            self.tokenizer: Tokenizer = tokenizer_from_state(stored)  # sampling alone needs no corpus
        else:
            self.data = TextDataModule(
                self.run.dataset,
                block_size=self.block_size,
                batch_size=self.config.training.batch_size,
                eval_batch_size=self.config.evaluation.batch_size,
                seed=self.run.seed,
                overfit_batches=self.config.training.overfit_batches,
                max_batches=self.config.evaluation.max_batches,
                tokenizer=tokenizer_from_state(stored) if stored else None,
            )
            with keys_below("dataset", self.run.dataset), first_process_first("data"):
                self.data.prepare()
            self.tokenizer = self.data.tokenizer
        other_data = self._check_data(begun_with=self.summary.get("dataset_fingerprint"))
        if self.data is not None:
            self.summary["dataset_fingerprint"] = self.data.fingerprint
        self.prompts, self.suffix, self.stop = [Prompt("", [self.tokenizer.start_id])], [], None
        if any(task in self.generating_tasks for task in self.config.tasks):
            sampling = self.config.sampling
            self.prompts = read_prompts(self.tokenizer, sampling)
            self.suffix = encoded(self.tokenizer, sampling.suffix, "experiment.sampling.suffix")
            self.stop = stop_of(self.tokenizer, sampling)
        with keys_below("algorithm", self.run.algorithm):
            self.algorithm = self._build_algorithm()
        if "sampling" in self.config.tasks:
            self._check_sampling()
        if self.checkpoint is not None and self.source is not None:
            load_weights(self.algorithm, self.checkpoint, self.source, tokenizer=self.tokenizer)
            self._check_steps()
            if not self.resumed:
                self.summary["weights_dataset_fingerprint"] = self.checkpoint.get("dataset")
            if other_data and not self.trains:
                print_rank_zero(f"note: {other_data}; likelihoods here are of the latter")
        parameters = sum(p.numel() for p in self.algorithm.parameters())
        self.summary |= {
            "likelihood_kind": self.algorithm.likelihood_kind,
            "loss_unit": self.algorithm.loss_unit,
            "parameters": parameters,
            "vocabulary_size": self.tokenizer.vocabulary_size,
            "block_size": self.block_size,
        }
        if "training" in self.config.tasks:
            self.check_space(parameters)
        name, tokens = self.run.chosen("algorithm"), self.tokenizer.vocabulary_size
        print_rank_zero(f"{name}: {parameters:,} parameters, {tokens} tokens")

    def training(self) -> None:
        """Train to experiment.training.max_steps, then take up the best weights on the validation split."""
        assert self.data is not None
        config = self.config.training
        if self.config.evaluation.max_batches == "auto" and (part := self.data.part_of("val", training=True)):
            print_rank_zero(f"val/nll while training is of {part}: experiment.evaluation.max_batches=null takes all")
        done = self.checkpoint["global_step"] if self.resumed and self.checkpoint else 0
        if done >= config.max_steps:
            print_rank_zero(f"training is complete: {done} steps are done")
            states = self.checkpoint["callbacks"]  # type: ignore[index]
            self._sum_up_training(states["Speed"], states["Checkpoints"], done)
        else:
            trainer = self._trainer()
            for logger in self.loggers:
                logger.log_hyperparams(self.run.plain)
            ckpt_path = str(self.source) if self.resumed else None
            choice = self._compiles()
            with interrupts.postponed("the run is saved after this step"), compiled(self.algorithm, choice):
                trainer.fit(self.algorithm, datamodule=self.data, ckpt_path=ckpt_path)
            trainer.strategy.barrier()  # the first process has written best.ckpt
            if self.run.trainer.get("profiler"):
                print_rank_zero(trainer.profiler.summary())  # type: ignore[attr-defined]
            (speed,) = (one for one in trainer.callbacks if isinstance(one, Speed))  # type: ignore[attr-defined]
            keeper = trainer.checkpoint_callback
            assert isinstance(keeper, Checkpoints)
            self._sum_up_training(speed.state_dict(), keeper.state_dict(), trainer.global_step)
        best = self.run_dir / "checkpoints" / "best.ckpt"
        load_weights(self.algorithm, read_checkpoint(best), best, tokenizer=self.tokenizer)
        self._draw_curve()

    def validation(self) -> None:
        """Nats per token, bits per character and perplexity of the validation split, and of the whole where there is
        one."""
        assert self.data is not None
        self._evaluate("val")
        if "val_whole" not in self.data.splits:
            return
        if part := self._part("val"):
            print_rank_zero(f"val_whole is left out: it begins as val does, of which this was {part}")
        else:
            self._evaluate("val_whole")

    def test(self) -> None:
        """The same on the test split."""
        self._evaluate("test")

    @rank_zero_only
    def likelihood(self) -> None:
        """Every likelihood that the method can state of one split: likelihood.csv, and window by window beside it."""
        assert self.data is not None
        split = self.config.evaluation.likelihood_split
        loader = self.data.eval_dataloader(split)  # all windows in this process
        measured = measure(
            self.algorithm.to(self.device).eval(),
            zip(loader.numbers, loader, strict=True),
            number=len(loader),
            context=self.evaluator.strategy.precision_plugin.forward_context,
            report=print_rank_zero,
        )
        part = self._part(split)
        for name, (kind, mean, error) in measured.write(self.run_dir, split).items():
            self.summary["figures"] |= {f"{split}/{name}": mean, f"{split}/{name}_error": error}
            self.summary["kinds"][f"{split}/{name}"] = kind
            kinds = f"{kind}, partial: {part}" if part else kind
            print_rank_zero(f"{split}/{name} {mean:.4f} ± {error:.4f} nats per token ({kinds})")

    @rank_zero_only
    def sampling(self) -> None:
        """Continue every prompt n_samples times; samples.txt for people, samples.json for programs."""
        config = self.config.sampling
        request = self._request(self.device)
        algorithm = self.algorithm.to(self.device).eval()
        with self.evaluator.strategy.precision_plugin.forward_context():
            out = algorithm.generate(request)
        samples = read_samples(self.tokenizer, config, self.prompts, request.seeds, out, self.stop)
        about = {
            **{key: getattr(config, key) for key in ("prompt", "prompt_file", "suffix", "stop", "length")},
            "checkpoint": str(self.source or self.run_dir / "checkpoints" / "best.ckpt"),
        }
        self.summary["sampling"] = write_samples(
            self.run_dir / "samples", out, samples, decoder=self.run.algorithm.decoder, about=about
        )
        each = 1 if len(self.prompts) == 1 else config.n_samples  # of several prompts one text each
        print_rank_zero(readable(samples[::each][:SHOWN]))
        rows = [[sample.prompt, str(sample.seed), sample.text] for sample in samples]
        self.log_media(tables={"samples": (["prompt", "seed", "text"], rows)}, files=self._draw_artifacts())

    def _request(self, device: torch.device | None = None) -> Request:
        """The texts of the task sampling; those of every prompt have the seeds that they would have alone."""
        config = self.config.sampling
        seeds = [self.run.seed * 1_000_000 + i for i in range(config.n_samples)]
        return Request.continuing(
            [prompt.ids for prompt in self.prompts for _ in seeds],
            length=config.length,
            seeds=seeds * len(self.prompts),
            suffix=self.suffix,
            stop=self.stop,
            rows_at_once=max(config.n_samples, self.config.evaluation.batch_size),
            device=device,
            encode=self.tokenizer.encode,
        )

    def _check_sampling(self) -> None:
        """ValueError, before any work, on texts that the decoder cannot write."""
        decoder = self.run.algorithm.decoder
        if self.suffix and not decoder.sees_right(self.algorithm):
            raise ValueError(
                f"experiment.sampling.suffix cannot be seen by algorithm={self.run.chosen('algorithm')} with "
                f"algorithm/decoder={decoder.name}, which reads from left to right: leave it empty, or take "
                "algorithm=masked_diffusion"
            )
        with keys_below("algorithm.decoder", decoder):
            decoder.check(self.algorithm, self._request())

    def _build_algorithm(self) -> BaseAlgorithm:
        """The configured model with fresh weights."""
        return look_up(ALGORITHMS, self.run.algorithm.name, "algorithm.name")(
            self.run.algorithm,
            vocabulary_size=self.tokenizer.vocabulary_size,
            total_steps=self.config.training.max_steps,
            seed=self.run.seed,
        )

    def _compiles(self) -> Choice:
        """Whether training steps are compiled, and how: experiment.training.compile with `auto` decided."""
        config, device = self.config.training, self.device
        if config.compile != "auto":
            return config.compile
        worth = pays(
            device,
            self.run.algorithm.backbone,
            parameters=self.summary["parameters"],
            tokens=config.batch_size * config.accumulate_grad_batches * self.block_size,
            steps=config.max_steps,
        )
        if worth and device.type == "cpu" and (name := missing_compiler()):
            print_rank_zero(f"note: training would be faster compiled, for which there is no {name} (a C++ compiler)")
            worth = False
        return "auto" if worth else False

    def _block_size(self) -> int:
        context = self.run.algorithm.backbone.block_size
        block_size = self.config.block_size or context
        if block_size > context:
            raise ValueError(
                f"experiment.block_size is {block_size}, above the context of {context}: lower it, or raise "
                "algorithm.backbone.block_size"
            )
        return block_size

    def _check_data(self, begun_with: str | None) -> str | None:
        """What the weights were trained on, where it is not the data at hand.

        Raises ValueError where a run is resumed that was `begun_with` data of another fingerprint; None stands for the
        data of its checkpoint.
        """
        if self.checkpoint is None or self.data is None or self.source is None:
            return None
        dataset, found = self.run.plain["dataset"], self.data.fingerprint
        other = trained_on_other_data(self.checkpoint, self.source, dataset=dataset, fingerprint=found)
        if self.resumed and (other if begun_with is None else begun_with != found):
            other = other or f"{self.run_dir} was begun with other data than {place_of(dataset)}"
            raise ValueError(
                f"{other}: resume= continues a run on the data that it began with; bring these back, or train on "
                f"others in a new run with load={self.source} dataset.tokenizer=loaded"
            )
        return other

    def _check_steps(self) -> None:
        assert self.checkpoint is not None
        done, steps = self.checkpoint.get("global_step", 0), self.config.training.max_steps
        if self.resumed and self.trains and done > steps:
            raise ValueError(f"experiment.training.max_steps is {steps}, and the run has done {done} steps: raise it")

    def _trainer(self) -> Trainer:
        """The Trainer of the training task, with everything that watches it."""
        kept = {  # in every checkpoint: what rebuilds the model
            "algorithm": self.run.algorithm.name,
            "config": {key: self.run.plain[key] for key in ("algorithm", "dataset")},
            "choices": self.run.choices,
            "overrides": self.run.overrides,
            "tokenizer": self.tokenizer.state(),
            "dataset": self.data.fingerprint if self.data else None,
        }
        trainer = build_trainer(
            self.run.trainer,
            run_dir=self.run_dir,
            training=self.config.training,
            watchers=training_callbacks(self.run, self.config.training, self.run_dir, kept),
            loggers=self.loggers,
            log_every_steps=self.run.logger.log_every_steps,
        )
        self.trainers.append(trainer)
        return trainer

    def _evaluate(self, split: str) -> None:
        assert self.data is not None
        trainer = self.evaluator
        loader = self.data.eval_dataloader(split, trainer.global_rank, trainer.world_size)
        measured = trainer.validate(self.algorithm, dataloaders=loader, verbose=False)[0]
        figures = {key: float(value) for key, value in measured.items() if key.startswith(f"{split}/")}
        figures = {key: value for key, value in figures.items() if not math.isnan(value) or not key.endswith(ERROR)}
        self._add_figures(figures)
        print_rank_zero(as_line(figures, kind=self.algorithm.likelihood_kind, part=self._part(split)))

    def _part(self, split: str, *, training: bool = False) -> str:
        """How much of a split the figures are of, which the summary notes; blank for all of it."""
        assert self.data is not None
        part, noted = self.data.part_of(split, training=training), self.summary.pop("partial", {})
        noted = {name: other for name, other in noted.items() if name != split} | ({split: part} if part else {})
        self.summary |= {"partial": noted} if noted else {}
        return part

    def _add_figures(self, figures: dict[str, float]) -> None:
        self.summary["figures"] |= figures
        self.summary["kinds"] |= {key: self.algorithm.likelihood_kind for key in figures if not key.endswith(ERROR)}

    def _sum_up_training(self, speed: dict[str, Any], best: dict[str, Any], steps: int) -> None:
        if math.isfinite(best["best"]):
            error = best.get("best_error")  # checkpoints of former versions have none
            self._add_figures({MONITOR: best["best"]} | ({} if error is None else {f"{MONITOR}{ERROR}": error}))
            self._part("val", training=True)
        self.summary["training"] = {
            "steps": steps,
            "best_step": best["best_step"],
            "tokens": speed["tokens"],
            "seconds": speed["seconds"],
            "tokens_per_second": speed["tokens"] / speed["seconds"] if speed["seconds"] else None,
        }

    @rank_zero_only
    def _draw_curve(self) -> None:
        self.write_summary("running")  # the plot reads the kind of likelihood from it
        out = self.run_dir / "plots" / "training_curve.png"
        curves.plot_training(self.run_dir, out)
        self.log_media(files=[out, *self._draw_artifacts()])

    def _draw_artifacts(self) -> list[Path]:
        """Draw what the method has to show; what it wants kept in the summary goes there, too."""
        drawn = []
        for artifact in self.algorithm.artifacts():
            drawn.append(self.run_dir / "plots" / f"{artifact.name}.png")
            plots.ARTIFACTS[artifact.plot](artifact.values, drawn[-1], **artifact.options)
            if artifact.in_summary:
                self.summary[artifact.name] = artifact.values.tolist()
        return drawn
