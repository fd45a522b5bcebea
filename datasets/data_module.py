"""The Lightning side of the data: windows of a prepared corpus in an order that depends on seed and step alone.

B windows a batch, T block size: every batch is int64 (B, T + 1).
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Literal

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from datasets.config import DatasetConfig
from datasets.prepare import Prepared, check_lengths, prepare
from datasets.tokenizers import Tokenizer
from datasets.windows import evaluation_batches, evaluation_lengths, gather, training_starts

VALIDATION_TOKENS = 2**20  # of a larger val, while training: its likelihood is known to 0.002 nats by then


class Batches:
    """An iterable that starts anew at each iter(): batches are whole and cheap, so no worker process is needed."""

    def __init__(self, make: Callable[[], Iterator[torch.Tensor]]):
        self._make = make

    def __iter__(self) -> Iterator[torch.Tensor]:
        return self._make()


class EvaluationBatches(Batches):
    """A process's batches of one split: `numbers` (B,) are those of each batch's windows in the split, `lengths` the
    targets of every window that all processes evaluate together."""

    def __init__(
        self,
        make: Callable[[], Iterator[torch.Tensor]],
        *,
        numbers: list[np.ndarray],
        lengths: np.ndarray,
        split: str,
        characters_per_token: float,
    ):
        super().__init__(make)
        self.numbers = numbers
        self.lengths = lengths
        self.split = split
        self.characters_per_token = characters_per_token

    def __len__(self) -> int:
        return len(self.numbers)


class TextDataModule(LightningDataModule):
    """Batches of a corpus; batch_size and eval_batch_size are windows per process.

    With `overfit_batches` training sees the first so many batches over and over, to see a method memorise. With
    `max_batches` evaluation covers the windows of a split's first so many batches, however many processes share them;
    "auto" is all of a split, but while training only the windows of its first VALIDATION_TOKENS, at any batch size.
    `tokenizer` is the one that `tokenizer=loaded` stands for. Raises ValueError, FileNotFoundError or OSError in one
    sentence when the data cannot be had.
    """

    def __init__(
        self,
        config: DatasetConfig,
        *,
        block_size: int,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        overfit_batches: int | None = None,
        max_batches: int | Literal["auto"] | None = None,
        tokenizer: Tokenizer | None = None,
    ):
        super().__init__()
        sizes = {"block_size": block_size, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size} is out of range: it must be at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed} is negative: choose 0 or more")
        self.config = config
        self.block_size = block_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.overfit_batches = overfit_batches
        self.max_batches = max_batches
        self._loaded_tokenizer = tokenizer
        self._prepared: Prepared | None = None

    def prepare_data(self) -> None:
        """Write the cache, once per node under Lightning."""
        self._open()

    def setup(self, stage: str | None = None) -> None:
        """Open the cache and check that each split holds a window."""
        self._open()

    def prepare(self) -> "TextDataModule":
        """Everything that Lightning would do before the loaders are asked for; calling it again does nothing."""
        self._open()
        return self

    def _open(self) -> Prepared:
        if self._prepared is None:
            prepared = prepare(self.config, self._loaded_tokenizer)
            check_lengths(prepared.splits, self.block_size)
            for note in prepared.notes:
                rank_zero_only(print)(note, flush=True)
            self._prepared = prepared
        return self._prepared

    @property
    def tokenizer(self) -> Tokenizer:
        return self._open().tokenizer

    @property
    def vocabulary_size(self) -> int:
        return self._open().tokenizer.vocabulary_size

    @property
    def splits(self) -> dict[str, np.memmap]:
        return self._open().splits

    @property
    def characters_per_token(self) -> dict[str, float]:
        return self._open().characters_per_token

    @property
    def fingerprint(self) -> str:
        return self._open().fingerprint

    def train_dataloader(self) -> Batches:
        """Endless batches (B, T + 1); the first is that of the Trainer's micro-step, so a resumed run goes on."""
        assert self.trainer is not None
        return Batches(lambda: self.training_batches(self._micro_step(), *self._place()))

    def eval_dataloader(self, split: str, rank: int = 0, world_size: int = 1) -> EvaluationBatches:
        """A process's share of the windows that predict every token of a split but its first exactly once.

        With more processes than windows some get a single batch without rows.
        """
        if split not in self.splits:
            raise ValueError(f"no split {split!r} in dataset={self.config.name}: it has {', '.join(self.splits)}")
        return self._evaluation(split, self._lengths(split), rank, world_size)

    def val_dataloader(self) -> EvaluationBatches:
        """The split that models are selected on, as it is evaluated while training, shared out by the Trainer's
        processes."""
        return self._evaluation("val", self._lengths("val", training=True), *self._place())

    def part_of(self, split: str, *, training: bool = False) -> str:
        """How much of a split is evaluated, in words; blank for all of it."""
        lengths, whole = self._lengths(split, training=training), self._windows(split)
        if len(lengths) == len(whole):
            return ""
        if self.max_batches == "auto":
            return f"the first {lengths.sum():,} of {whole.sum():,} tokens"
        return f"the first {self.max_batches} of {len(evaluation_batches(whole, self.eval_batch_size))} batches"

    def _lengths(self, split: str, *, training: bool = False) -> np.ndarray:
        """Targets (W,) of the windows of a split that are evaluated."""
        if self.max_batches != "auto":
            return self._windows(split, self.eval_batch_size, self.max_batches)
        return self._windows(split, 1, -(-VALIDATION_TOKENS // self.block_size) if training else None)

    def _windows(self, split: str, batch_size: int = 1, max_batches: int | None = None) -> np.ndarray:
        return evaluation_lengths(len(self.splits[split]), self.block_size, batch_size, max_batches)

    def _evaluation(self, split: str, lengths: np.ndarray, rank: int, world_size: int) -> EvaluationBatches:
        ids = self.splits[split].view(np.ndarray)
        batches = evaluation_batches(lengths, self.eval_batch_size, rank=rank, world_size=world_size)
        return EvaluationBatches(
            lambda: (to_tensor(gather(ids, numbers * self.block_size, t)) for numbers, t in batches),
            numbers=[numbers for numbers, _ in batches],
            lengths=lengths,
            split=split,
            characters_per_token=self.characters_per_token[split],
        )

    def training_batches(self, step: int, rank: int = 0, world_size: int = 1) -> Iterator[torch.Tensor]:
        """A process's batches from micro-step `step` on."""
        fresh = self._drawn_batches(0 if self.overfit_batches else step, rank, world_size)
        if self.overfit_batches is None:
            yield from fresh
        batches = list(islice(fresh, self.overfit_batches))
        while True:
            yield batches[step % len(batches)]
            step += 1

    def _drawn_batches(self, step: int, rank: int, world_size: int) -> Iterator[torch.Tensor]:
        ids = self.splits["train"].view(np.ndarray)  # a plain array: indexing a memmap costs a wrapper each time
        while True:
            starts = training_starts(
                len(ids),
                self.block_size,
                self.batch_size,
                seed=self.seed,
                step=step,
                rank=rank,
                world_size=world_size,
            )
            yield to_tensor(gather(ids, starts, self.block_size))
            step += 1

    def _micro_step(self) -> int:
        """Training batches that the Trainer has seen."""
        assert self.trainer is not None
        return self.trainer.global_step * self.trainer.accumulate_grad_batches

    def _place(self) -> tuple[int, int]:
        """(rank, world size) of the Trainer's process."""
        assert self.trainer is not None
        return self.trainer.global_rank, self.trainer.world_size


def to_tensor(windows: np.ndarray) -> torch.Tensor:
    """(B, T + 1) int64, in pinned memory where there is a CUDA device to copy it to."""
    batch = torch.from_numpy(windows)
    return batch.pin_memory() if torch.cuda.is_available() else batch
