"""Randomness that does not depend on the company: a step, a row and a position draw by their own seeds alone.

So a resumed run draws what the uninterrupted one would have drawn, several processes draw together what one would, and
a batch gives each row what it would get alone. B batch, R rows, K positions.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

EVALUATION_SEED = 1234  # every evaluation draws the same noise, so that checkpoints and methods are paired
STEPS_PER_DRAW = 16  # a generator's call costs more than its numbers


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of one training micro-step: a resumed run draws what the uninterrupted one would have drawn."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the global generator of `device`, from which dropout draws. torch.manual_seed would seed those of every
    device, at more than a millisecond a call."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.get_device_module(device).manual_seed(seed)


class BatchGenerator(torch.Generator):
    """The generator of a training batch that `world_size` processes share: all draw for the whole batch, by
    `draw_rows`, and each keeps every world_size-th row, as the windows themselves are dealt out."""

    rank = 0
    world_size = 1

    @classmethod
    def of(cls, seed: int, device: torch.device, *, rank: int = 0, world_size: int = 1) -> "BatchGenerator":
        """That of the process `rank`; `seed` is the same for all of them."""
        generator = cls(device)
        generator.manual_seed(seed)
        generator.rank, generator.world_size = rank, world_size
        return generator


class RowRandom:
    """Random numbers for a batch whose row i depends on seeds[i] alone. Drawn on the CPU, the same everywhere;
    `draw_rows` moves them to `device`."""

    def __init__(self, seeds: Iterable[int], device: torch.device | str = "cpu") -> None:
        self._generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.device = torch.device(device)

    @classmethod
    def of_windows(cls, numbers: Iterable[int], device: torch.device) -> "RowRandom":
        """The noise of evaluation: that of a window follows from its number in the split alone."""
        return cls((step_seed(EVALUATION_SEED, int(number)) for number in numbers), device)

    def draw(self, function: "Callable[[int, torch.Generator], Tensor]") -> Tensor:
        """function(1, generator) of every row's own generator, (B, ...) on the CPU."""
        return torch.cat([function(1, generator) for generator in self._generators])

    def uniform(self, *shape: int, rows: Sequence[int] | None = None) -> Tensor:
        """Uniform on [0, 1): (B, *shape), float64; only `rows` draw if given."""
        generators = self._chosen(rows)
        drawn = torch.empty(len(generators), *shape, dtype=torch.float64)
        for row, generator in zip(drawn.unbind(), generators, strict=True):  # in place: half of the time of a stack
            row.uniform_(generator=generator)
        return drawn

    def normal(self, *shape: int, rows: Sequence[int] | None = None) -> Tensor:
        """Standard normal: (B, *shape), float32; only `rows` draw if given."""
        return torch.stack([torch.randn(shape, generator=g) for g in self._chosen(rows)])

    def _chosen(self, rows: Sequence[int] | None) -> list[torch.Generator]:
        return self._generators if rows is None else [self._generators[row] for row in rows]


class StepUniforms:
    """Uniforms of a number of positions, drawn for several steps at once: a row's own seed and steps alone decide
    what it gets. `rows` (R,) are on the CPU, the numbers of a step on `device`."""

    def __init__(
        self, random: RowRandom, rows: Tensor, length: int, per_step: int, device: torch.device | str = "cpu"
    ) -> None:
        self.random = random
        self.rows = rows
        self.shape = (per_step, length)
        self.device = device
        self.block = torch.empty(0)
        self.taken = STEPS_PER_DRAW

    def once(self) -> Tensor:
        """One number for each position of the chunk: (R, K), on the CPU."""
        return self.random.uniform(self.shape[1], rows=self.rows.tolist())

    def next(self) -> Tensor:
        """The numbers of the next step: (R, per_step, K)."""
        if self.taken == STEPS_PER_DRAW:
            drawn = self.random.uniform(STEPS_PER_DRAW, *self.shape, rows=self.rows.tolist())
            self.block, self.taken = drawn.to(self.device), 0
        self.taken += 1
        return self.block[:, self.taken - 1]

    def keep(self, index: Tensor, there: Tensor) -> None:
        """Go on with the rows at `index`, a LongTensor on the CPU, which `there` is on the device."""
        self.rows, self.block = self.rows[index], self.block[there]


Source = torch.Generator | RowRandom  # where a method's noise comes from, in training and in evaluation


def draw_rows(source: Source, rows: int, function: Callable[[int, torch.Generator], Tensor]) -> Tensor:
    """Random rows (B, ...) on the source's device, by a `function` of how many rows to draw and the generator.

    A plain generator draws the B rows at once, a BatchGenerator those of the whole batch, RowRandom each by its own.
    """
    if isinstance(source, RowRandom):
        return source.draw(function).to(source.device)
    if isinstance(source, BatchGenerator):
        return function(rows * source.world_size, source)[source.rank :: source.world_size]
    return function(rows, source)


def uniform(source: Source, rows: int, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Uniform on [0, 1): (B, *shape)."""
    return draw_rows(source, rows, lambda n, g: torch.rand(n, *shape, generator=g, device=g.device, dtype=dtype))


def normal(source: Source, rows: int, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal: (B, *shape)."""
    return draw_rows(source, rows, lambda n, g: torch.randn(n, *shape, generator=g, device=g.device, dtype=dtype))


def integers(source: Source, high: int, rows: int, *shape: int) -> Tensor:
    """Uniform on 0 .. high - 1: (B, *shape) int64."""
    return draw_rows(source, rows, lambda n, g: torch.randint(high, (n, *shape), generator=g, device=g.device))
