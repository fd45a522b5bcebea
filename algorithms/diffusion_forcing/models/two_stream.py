"""A GPT and, in the same pass and with the same weights, windows of noisy tokens behind its clean ones.

Two streams as in BD3-LM (arXiv:2503.09573), causal inside the window. What stands to the right of a token in its window
is read by a small backbone of its own from right to left, so that no state that a token is predicted from has seen that
token's noisy value. Tokens decided in one pass need not be decided apart: the head also takes the token before, once it
has been drawn. B batch, T tokens, N noisy ones, W window, C embedding channels, V vocabulary.
"""

import random
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from algorithms.common.backbone import Backbone, BackboneConfig
from algorithms.common.backbone.layers import init_weights
from algorithms.common.backbone.masks import window_mask
from algorithms.common.device import full_precision
from algorithms.common.fields import STRICT, Natural, NonNegative, PositiveShare, Share
from algorithms.common.randomness import draw_rows, uniform
from algorithms.diffusion_forcing.models.base import NeighbourStates
from algorithms.diffusion_forcing.models.shifted import ShiftedDenoiser
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess, channel_logits
from algorithms.diffusion_forcing.process.row_mixture import sample_noise_levels


@dataclass(frozen=True, config=STRICT)
class StreamConfig:
    """The noisy stream of `parameterisation=two_stream`.

    `share` of every text is shown a second time as noisy windows of 2, 4, 8, ... up to `max_window` tokens; `weight` is
    that of their cross-entropy beside the clean stream's. `forward_layers` more are run over the noisy tokens alone,
    `backward_layers` read a window from right to left; 0 of these keeps the model causal. `chain` is the share of
    windows in which a token is predicted given the one before it, too; 0 leaves that out.
    """

    share: PositiveShare = 0.5
    max_window: Annotated[int, Field(ge=2, strict=True)] = 16
    weight: NonNegative = 0.2
    forward_layers: Natural = 1
    backward_layers: Natural = 1
    chain: Share = 0.5

    def __post_init__(self) -> None:
        if self.max_window & (self.max_window - 1):
            raise ValueError(f"max_window is {self.max_window}: it must be a power of 2, at least 2")

    def tokens(self, block_size: int) -> int:
        """Noisy tokens N beside block_size clean ones; ValueError if not even a window fits."""
        if self.max_window >= block_size:
            lower = "lower it, or " if block_size > 2 else ""
            raise ValueError(
                f"max_window is {self.max_window}: it must be below the {block_size} tokens of a text: {lower}raise "
                "algorithm.backbone.block_size"
            )
        windows = int(self.share * (block_size - 1)) // self.max_window
        return max(1, windows) * self.max_window


class TwoStreamDenoiser(ShiftedDenoiser):
    """A ShiftedDenoiser trained on clean texts and on noisy windows of them, with layers for what is to the right."""

    def __init__(self, config: Any, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size)
        self.streams = streams = config.streams
        streams.tokens(self.block_size)  # raises where no window fits
        self.chains = streams.chain > 0
        self.noisy_layers: Backbone | None = None
        self.right_layers: Backbone | None = None
        n_embd = config.backbone.n_embd
        if streams.forward_layers:
            self.noisy_layers = Backbone(window_config(config.backbone, streams.forward_layers))
            self.more = nn.Linear(n_embd, n_embd, bias=False)
            nn.init.zeros_(self.more.weight)  # starts as the shared backbone alone
        if streams.backward_layers:
            self.reads_right = streams.max_window
            self.right_layers = Backbone(window_config(config.backbone, streams.backward_layers))
        if streams.backward_layers or streams.chain:
            last = nn.Linear(2 * n_embd, n_embd)
            self.merge = nn.Sequential(nn.Linear(3 * n_embd, 2 * n_embd), nn.GELU(), last)
            self.merge.apply(init_weights)
            nn.init.zeros_(last.weight)  # starts as the causal model

    def losses(self, process: GaussianProcess, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """As in ShiftedDenoiser; `clean_ce` is of the tokens after a clean past, all of them, `noisy_ce` of those in
        and after the noisy windows, whose levels are drawn window by window."""
        T, table = ids.size(1) - 1, self.table()
        N = self.streams.tokens(T)
        start, width = self._layout(T, N, generator)
        positions = torch.arange(start, start + N, device=ids.device)
        begins = positions - (positions - start) % width
        levels = draw_rows(generator, ids.size(0), partial(self._window_levels, process, N, width))
        tokens = ids[:, start : start + N]
        x0 = F.embedding(tokens, table)
        x = process.q_sample(x0, levels, process.draw_noise(x0.shape, generator))
        abar = process.alphas_cumprod[levels.clamp(min=0)]
        channel = channel_logits(x, abar, table)
        noisy = self.read_noisy(x, abar, channel)
        first, ends = begins == positions, slice(width - 1, None, width)
        clean, seen, past = self._states(ids, noisy, positions, begins)
        if self.conditions_itself(generator):
            belief = channel + self.head(past).detach()
            clean, seen, past = self._states(ids, self.read_noisy(x, abar, belief), positions, begins)
        logits = self.model.lm_head(clean)  # (B, T, V)
        clean_ce = F.cross_entropy(full_precision(logits).flatten(0, 1), ids[:, 1:].flatten())

        # The tokens of the windows, then those behind each window, which see it from the left alone.
        right = self.read_right(noisy, positions, begins)
        left = self._left(ids[:, start - 1 : start + N - 1], first, width, generator)
        targets = torch.cat([tokens, ids[:, start + width : start + N + 1 : width]], dim=1)  # (B, N + N / width)
        behind = self._left(tokens[:, ends], None, 1, generator)
        logits = torch.cat([self.head(past, right, left), self.head(seen[:, ends], None, behind)], dim=1)
        nats = F.cross_entropy(full_precision(logits).transpose(1, 2), targets, reduction="none")
        if self.right_layers is None:
            nats = nats[:, F.pad(~first, (0, N // width), value=True)]  # the clean stream predicts the others
        noisy_ce = nats.mean()

        posterior = logits[:, :N] + channel
        process.observe(levels, posterior, tokens)
        parts = {"ce": clean_ce + self.streams.weight * noisy_ce, "clean_ce": clean_ce, "noisy_ce": noisy_ce}
        if self.squared_error:
            error = (posterior.softmax(-1) @ table - x0.detach()).square().mean(-1)
            parts["mse"] = (process.compute_loss_weights(levels) * error).mean()
        return parts

    def _window_levels(self, process: GaussianProcess, N: int, width: int, rows: int, g: torch.Generator) -> Tensor:
        """Levels (B, N) of texts with N noisy tokens in windows of `width`."""
        windows, options = rows * (N // width), {"timesteps": process.timesteps, "mixture": self.rows}
        return sample_noise_levels(windows, width, generator=g, windows=True, **options).view(rows, N)

    def _states(self, ids: Tensor, noisy: Tensor, positions: Tensor, begins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States of the clean stream (B, T, n_embd), of the noisy one, and before each of its tokens (B, N, n_embd)."""
        clean, seen = self.model.backbone.two_streams(self.model.wte(ids[:, :-1]), noisy, positions, begins)
        seen = self.refine(seen, positions, begins)
        before = clean[:, positions - 1]
        past = torch.where((begins == positions)[:, None], before, torch.cat([before[:, :1], seen[:, :-1]], dim=1))
        return clean, seen, past

    def _left(
        self, tokens: Tensor, first: Tensor | None, width: int, generator: torch.Generator
    ) -> NeighbourStates | None:
        """The tokens (B, N) before those of the windows, in a share of these; those at `first` (N,) are clean
        anyway."""
        shape = (tokens.size(0), tokens.size(1) // width)
        shown = uniform(generator, *shape) < self.streams.chain
        shown = shown.repeat_interleave(width, dim=1)
        return self.left(tokens, shown if first is None else shown & ~first)

    def _layout(self, T: int, N: int, generator: torch.Generator) -> tuple[int, int]:
        """The first of N noisy positions and the width of their windows, for a whole batch; without waiting for the
        device."""
        draw = random.Random(generator.initial_seed())
        width = 2 ** draw.randint(1, self.streams.max_window.bit_length() - 1)
        return draw.randint(1, T - N), width

    def estimate(self, process: GaussianProcess, ids: Tensor, x: Tensor, levels: Tensor) -> Tensor:
        abar = process.alphas_cumprod[levels.clamp(min=0)][:, 1:]
        index = torch.arange(ids.size(1) - 1, device=ids.device)
        prior = self.window_priors(ids, x[:, 1:], abar / (1 - abar), index - index % self.streams.max_window)[1]
        table = self.table()
        return (prior + channel_logits(x[:, 1:], abar, table)).softmax(-1) @ table

    def refine(self, seen: Tensor, positions: Tensor, begins: Tensor) -> Tensor:
        """States of noisy tokens (B, N, n_embd) after the layers that are theirs alone, each seeing its window up to
        itself."""
        if self.noisy_layers is None or seen.size(1) == 0:
            return seen
        where = torch.arange(len(positions), device=seen.device)
        return seen + self.more(self.noisy_layers(seen, mask=window_mask(positions, begins), positions=where))

    def read_right(self, noisy: Tensor, positions: Tensor, begins: Tensor) -> NeighbourStates | None:
        """What the window holds to the right of every token, noisy (B, N, n_embd): states (B, N, n_embd)."""
        if self.right_layers is None or len(positions) < 2:
            return None
        inside = window_mask(-positions.flip(0), begins.flip(0))  # (N, N): from right to left
        where = torch.arange(len(positions), device=noisy.device)
        states = self.right_layers(noisy.flip(1), mask=inside, positions=where).flip(1)
        known = F.pad(begins[1:] == begins[:-1], (0, 1))[:, None]  # (N, 1): not the last of a window
        return NeighbourStates(F.pad(states[:, 1:], (0, 0, 0, 1)).where(known, 0.0), known)

    def left(self, tokens: Tensor, known: Tensor) -> NeighbourStates | None:
        """The tokens (B, N) before those to be predicted, where known (B, N)."""
        if not self.chains:
            return None
        known = known[..., None]
        return NeighbourStates(self.model.wte(tokens).where(known, 0.0), known)

    def head(self, past: Tensor, right: NeighbourStates | None = None, left: NeighbourStates | None = None) -> Tensor:
        """Logits (B, N, V) of tokens from the states before them, past (B, N, n_embd), and what else is known."""
        if right is None and left is None:
            return self.model.lm_head(past)
        nothing = NeighbourStates(torch.zeros_like(past), past.new_zeros(past.size(1), 1, dtype=torch.bool))
        right, left = right or nothing, left or nothing
        more = self.merge(torch.cat([past, right.states, left.states], dim=-1))
        return self.model.lm_head(past + more.where(right.where | left.where, 0.0))


def window_config(config: BackboneConfig, layers: int) -> BackboneConfig:
    """A backbone over a window: of the width of `config`, with rotary positions, as windows begin anywhere."""
    if config.n_embd // config.n_head % 2:
        raise ValueError(
            f"backbone.n_embd / n_head is {config.n_embd // config.n_head}: it must be even, as the backbones over "
            "noisy windows always have rotary positions"
        )
    return replace(config, n_layer=layers, style="rope", bias=False)
