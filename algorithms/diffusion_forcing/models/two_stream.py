"""A GPT and, in the same pass and with the same weights, windows of noisy tokens behind its clean ones.

Two streams as in BD3-LM (arXiv:2503.09573), causal inside the window. What stands to the right of a token in its window
is read by a small backbone of its own from right to left, so that no state that a token is predicted from has seen that
token's noisy value. Tokens decided in one pass need not be decided apart: the head also takes the token before, once it
has been drawn. B batch, T tokens, N noisy ones, W window, C embedding channels, V vocabulary.
"""

import random
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from algorithms.common.backbone import Backbone, BackboneConfig
from algorithms.common.backbone.layers import init_weights
from algorithms.common.backbone.masks import Blocks
from algorithms.common.fields import STRICT, Count, Natural, NonNegative, PositiveShare, Share
from algorithms.common.head import token_nats
from algorithms.common.randomness import draw_rows, uniform
from algorithms.diffusion_forcing.models.base import Losses, NeighbourStates, Windows
from algorithms.diffusion_forcing.models.shifted import Known, ShiftedDenoiser
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess, channel_logits
from algorithms.diffusion_forcing.process.row_mixture import sample_noise_levels


@dataclass(frozen=True, config=STRICT)
class StreamConfig:
    """The noisy stream of `parameterisation=two_stream`.

    On every `interval`-th step, `share` of every text is shown a second time as noisy windows of 2, 4, 8, ... up to
    `max_window` tokens; the other steps are a GPT's. `weight` is that of the windows' cross-entropy beside the clean
    stream's. `forward_layers` more are run over the noisy tokens alone, `backward_layers` read a window from right to
    left; 0 of these keeps the model causal. `chain` is the share of windows in which a token is predicted given the one
    before it, too; 0 leaves that out.
    """

    interval: Count = 1
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


class StreamDraws(NamedTuple):
    """What chance decides in a step: levels (B, N), noise (B, N, C), whether the network reads its own estimates, the
    first noisy position and the width of all windows, both (), and which of the tokens in (N) and behind (N / 2, not
    all of them used) the windows are told the one before, (B, N + N / 2)."""

    levels: Tensor
    noise: Tensor
    again: bool
    start: Tensor
    width: Tensor
    told: Tensor


class TwoStreamDenoiser(ShiftedDenoiser):
    """A ShiftedDenoiser trained on clean texts and on noisy windows of them, with layers for what is to the right."""

    def __init__(self, config: Any, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size)
        self.streams = streams = config.streams
        self.interval = streams.interval
        self.of_noise = ("noisy_ce", "mse") if self.squared_error else ("noisy_ce",)
        ce_weight = self.weights.pop("ce")
        self.weights |= {"clean_ce": ce_weight, "noisy_ce": ce_weight * streams.weight}
        noisy, width = streams.tokens(self.block_size), streams.max_window
        self.stream_blocks, self.window_blocks = Blocks(self.block_size, noisy, width), Blocks(0, width, width)
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

    def draw(self, process: GaussianProcess, ids: Tensor, generator: torch.Generator) -> StreamDraws:
        """Where the windows are, and levels, noise and told tokens window by window."""
        B, T = ids[:, :-1].shape
        N = self.streams.tokens(T)
        start, width = self._layout(T, N, generator)
        levels = draw_rows(generator, B, partial(self._window_levels, process, N, width))
        noise = process.draw_noise((B, N, self.table.dim), generator)
        again = self.conditions_itself(generator)
        inside, behind = (uniform(generator, B, N // width) < self.streams.chain for _ in range(2))
        inside = F.pad(inside[..., None].expand(-1, -1, width - 1), (1, 0)).flatten(1)  # before the first all is clean
        told = torch.cat([inside, F.pad(behind, (0, N // 2 - N // width))], dim=1)
        begin, wide = (torch.full((), value, device=ids.device) for value in (start, width))
        return StreamDraws(levels, noise, again, begin, wide, told)

    def noise_parameters(self) -> Iterable[nn.Parameter]:
        gpt = set(self.model.parameters())
        return (parameter for parameter in self.parameters() if parameter not in gpt)

    def losses(self, process: GaussianProcess, ids: Tensor, draws: StreamDraws | None) -> Losses:
        """As in ShiftedDenoiser; `clean_ce` is of the tokens after a clean past, all of them, `noisy_ce` of those in
        and after the noisy windows, whose levels are drawn window by window. Without draws there is `clean_ce` alone.

        The tokens behind the windows, at most N / 2, have a place each in any layout, so that shapes are static.
        """
        if draws is None:
            states = self.model.hidden(ids[:, :-1])
            return Losses({"clean_ce": token_nats(states, self.model.lm_head.weight, ids[:, 1:]).mean()})
        T, N, width = ids.size(1) - 1, draws.levels.size(1), draws.width
        place, slot = (torch.arange(n, device=ids.device) for n in (N, N // 2))
        first, used = place % width == 0, slot < N // width
        windows = Windows(positions := draws.start + place, positions - place % width, self.streams.max_window)
        ends = torch.where(used, width * (slot + 1) - 1, 0)  # the last token of each window

        table, tokens = self.table(), ids.index_select(1, positions)
        x = process.q_sample(F.embedding(tokens, table), draws.levels, draws.noise)
        abar = process.alphas_cumprod[draws.levels.clamp(min=0)]
        targets = torch.cat([positions, draws.start + ends + 1])
        read = torch.cat([ids[:, :-1], ids.index_select(1, targets - 1)], dim=1)  # the second half as told tokens
        clean, before = self.model.wte(read).split([T, len(targets)], dim=1)
        noisy = self.read_channel(x, abar, table)
        inner = torch.where(first, positions, T + place) - 1  # of both streams, the states before noisy tokens
        if draws.again:
            with torch.no_grad():
                past = self._streams(clean, noisy, windows).index_select(1, inner)
            states = self._streams(clean, self.read_channel(x, abar, table, past), windows)
        else:
            states = self._streams(clean, noisy, windows)

        # The tokens of the windows, then those behind each window, which see it from the left alone.
        past = states.index_select(1, torch.cat([inner, T + ends]))
        right = pad_rows(self.read_right(noisy, windows), N // 2)
        past = self.merged(past, right, self._beside(before, draws.told))
        every = torch.cat([states[:, :T], past], dim=1)
        nats = token_nats(
            every, self.model.lm_head.weight, torch.cat([ids[:, 1:], ids.index_select(1, targets)], dim=1)
        )
        clean_ce = nats[:, :T].mean()
        counted = torch.cat([torch.ones_like(first) if self.reads_right else ~first, used]).to(nats)
        noisy_ce = (nats[:, T:] * counted).sum() / (len(ids) * counted.sum())  # the clean stream predicts the others
        parts = {"clean_ce": clean_ce, "noisy_ce": noisy_ce}
        known = Known(past[:, :N], x, abar, draws.levels, tokens)
        weights = process.compute_loss_weights(draws.levels) if self.squared_error else None
        return self.with_posterior(process, parts, known, weights, table)

    def _window_levels(self, process: GaussianProcess, N: int, width: int, rows: int, g: torch.Generator) -> Tensor:
        """Levels (B, N) of texts with N noisy tokens in windows of `width`."""
        windows, options = rows * (N // width), {"timesteps": process.timesteps, "mixture": self.rows}
        return sample_noise_levels(windows, width, generator=g, windows=True, **options).view(rows, N)

    def _streams(self, clean: Tensor, noisy: Tensor, windows: Windows) -> Tensor:
        """States (B, T + N, n_embd) of the clean stream and of the noisy one."""
        clean, seen = self.model.backbone.two_streams(
            clean, noisy, windows.positions, windows.begins, self.stream_blocks
        )
        return torch.cat([clean, self.refine(seen, windows)], dim=1)

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

    def refine(self, seen: Tensor, windows: Windows | None = None) -> Tensor:
        """States of noisy tokens (B, N, n_embd) after the layers that are theirs alone, each seeing its window up to
        itself."""
        if self.noisy_layers is None or seen.size(1) == 0:
            return seen
        return seen + self.more(self._over_windows(self.noisy_layers, seen, windows))

    def read_right(self, noisy: Tensor, windows: Windows | None = None) -> NeighbourStates | None:
        """What the window holds to the right of every token, noisy (B, N, n_embd): states (B, N, n_embd)."""
        N = noisy.size(1)
        if self.right_layers is None or N < 2:
            return None
        states = self._over_windows(self.right_layers, noisy, windows, from_right=True)
        if windows is None:
            known = torch.arange(N, device=noisy.device) < N - 1
        else:
            known = F.pad(windows.begins[1:] == windows.begins[:-1], (0, 1))  # (N,): not the last of a window
        return NeighbourStates(states.roll(-1, 1).where(known[:, None], 0.0), known[:, None])

    def _over_windows(
        self, layers: Backbone, x: Tensor, windows: Windows | None, *, from_right: bool = False
    ) -> Tensor:
        """States (B, N, n_embd) of `layers` over vectors x (B, N, n_embd), each seeing its window up to itself, or with
        `from_right` from itself on."""
        x = x.flip(1) if from_right else x
        if windows is None:
            states = layers(x)
        else:
            stretch = windows.stretch or x.size(1)
            begins = windows.begins[:stretch]  # as they are in every stretch
            begins = begins.flip(0) if from_right else begins
            states = layers.windows(x.reshape(-1, stretch, x.size(2)), begins, self.window_blocks).view(x.shape)
        return states.flip(1) if from_right else states

    def left(self, tokens: Tensor, known: Tensor) -> NeighbourStates | None:
        """The tokens (B, N) before those to be predicted, where known (B, N)."""
        return self._beside(self.model.wte(tokens), known)

    def _beside(self, embedded: Tensor, known: Tensor) -> NeighbourStates | None:
        """What is told of the tokens before, embedded (B, N, n_embd), where known (B, N)."""
        if not self.chains:
            return None
        return NeighbourStates(embedded.where(known[..., None], 0.0), known[..., None])

    def merged(self, past: Tensor, right: NeighbourStates | None, left: NeighbourStates | None) -> Tensor:
        """The states (B, N, n_embd) that tokens are predicted from: those before them, past (B, N, n_embd), and what
        else is known."""
        if right is None and left is None:
            return past
        nothing = NeighbourStates(torch.zeros_like(past), past.new_zeros(past.size(1), 1, dtype=torch.bool))
        right, left = right or nothing, left or nothing
        more = self.merge(torch.cat([past, right.states, left.states], dim=-1))
        return past + more.where(right.where | left.where, 0.0)

    def head(self, past: Tensor, right: NeighbourStates | None = None, left: NeighbourStates | None = None) -> Tensor:
        return self.model.lm_head(self.merged(past, right, left))


def pad_rows(known: NeighbourStates | None, rows: int) -> NeighbourStates | None:
    """The same and, for so many tokens more, nothing."""
    return known and NeighbourStates(*(F.pad(one, (0, 0, 0, rows)) for one in known))


def window_config(config: BackboneConfig, layers: int) -> BackboneConfig:
    """A backbone over a window: of the width of `config`, with rotary positions, as windows begin anywhere."""
    if config.n_embd // config.n_head % 2:
        raise ValueError(
            f"backbone.n_embd / n_head is {config.n_embd // config.n_head}: it must be even, as the backbones over "
            "noisy windows always have rotary positions"
        )
    return replace(config, n_layer=layers, style="rope", bias=False)
