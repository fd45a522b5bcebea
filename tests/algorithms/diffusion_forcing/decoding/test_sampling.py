"""The decoding loop: against plain loops written out, and what must hold for prompts, infilling and
windows."""

from itertools import groupby, pairwise

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from algorithms.common.randomness import RowRandom
from algorithms.diffusion_forcing.decoding.posterior import WholeWindow
from algorithms.diffusion_forcing.decoding.sampling import sample
from algorithms.diffusion_forcing.decoding.scheduling_matrix import MODES, scheduling_matrix
from algorithms.diffusion_forcing.diffusion import Diffusion
from algorithms.diffusion_forcing.process.gaussian import GaussianProcess, Sampler

B, L, C = 2, 9, 4


def make(denoiser, *, steps: int = 4, block_size: int = L, **options) -> tuple[Sampler, WholeWindow]:
    """Steps of a process, and what `denoiser` says over whole windows."""
    diffusion = Diffusion(denoiser, sampling_timesteps=steps, **options)
    return diffusion.sampler, WholeWindow(denoiser, block_size)


def rows_of(mode: str, steps: int = 4, scale: float = 1.0):
    return lambda horizon: scheduling_matrix(mode, horizon, steps, scale)


def prompt_of(length: int, rows: int = B, total: int = L) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(rows, total, C, generator=torch.Generator().manual_seed(7))
    return x, (torch.arange(total) < length).expand(rows, -1)


def test_full_sequence_is_plain_ddim(toy):
    """Catches a loop that denoises in another order, or with other noise, than DDIM written out by hand."""
    sampler, posterior = make(toy())
    x, given = prompt_of(0)
    out = sample(sampler, posterior, x, given, matrix=rows_of("full_sequence"), random=RowRandom([1, 2]))
    plain = RowRandom([1, 2]).normal(L, C).clamp(-5, 5)
    abar = torch.cat([torch.ones(1), sampler.process.alphas_cumprod[[7, 15, 23, 31]]])
    for level in range(4, 0, -1):
        k = torch.full((B, L), 8 * level - 1)
        noise = posterior.denoiser(plain, k).clamp(-5, 5)
        x0 = (plain - (1 - abar[level]).sqrt() * noise) / abar[level].sqrt()
        plain = abar[level - 1].sqrt() * x0 + (1 - abar[level - 1]).sqrt() * noise
    torch.testing.assert_close(out.x, plain, rtol=1e-4, atol=1e-4)
    assert out.steps == 4


def slow_sample(diffusion, prompt, total, matrix, random, block_size, chunk_size):
    """The original's validation loop, chunk after chunk, for a prompt (B, n, C). A token's noise is drawn when it is
    begun, for all its levels, and DDPM shows the finished ones in noise that is drawn when they are."""
    S, ddpm = diffusion.sampling_timesteps, not diffusion.is_ddim_sampling
    x, own = prompt, {}

    def noise_of(*shape: int) -> torch.Tensor:
        return random.normal(*shape, C) if ddpm else torch.zeros(B, *shape, C)

    shown = noise_of(x.shape[1])
    while x.shape[1] < total:
        final, horizon = x.shape[1], min(chunk_size, total - x.shape[1])
        x = torch.cat([x, random.normal(horizon, C).clamp(-5, 5)], dim=1)
        shown = torch.cat([shown, torch.zeros(B, horizon, C)], dim=1)
        start = max(0, x.shape[1] - block_size)
        levels = torch.cat([torch.zeros(len(matrix(horizon)), final, dtype=torch.long), matrix(horizon)], dim=1)
        for now, then in pairwise(levels):
            for position in torch.nonzero((now == S) & (then < S)).flatten().tolist():
                own[position] = (
                    random.normal(S - 1, C) if ddpm or diffusion.sampler.ddim_eta > 0 else torch.zeros(B, S - 1, C)
                )
            fresh = [own[p][:, now[p] - 2] if now[p] > 1 and p in own else torch.zeros(B, C) for p in range(len(now))]
            asked = iter([shown[:, start:]] * ddpm + [torch.stack(fresh, 1)[:, start:]])
            x[:, start:] = diffusion.sample_step(
                x[:, start:],
                now[start:].expand(B, -1),
                then[start:].expand(B, -1),
                noise_fn=lambda like, asked=asked: next(asked),
            )
            done = int((then == 0).long().cumprod(0).sum())
            shown[:, final:done] = noise_of(done - final)
            final = done
        shown[:, final:] = noise_of(x.shape[1] - final)
    return x


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_chunks_and_window_equal_the_original_loop(toy, mode, chunk_size):
    """Catches a window, a chunk boundary, a level or a draw that differs from the loop's, for DDPM and DDIM."""
    for steps, eta, scale in ((4, 0.7, 1.0), (4, 0.7, 0.0), (4, 0.0, 1.0), (8, 0.0, 1.5)):
        options = {"timesteps": 8, "sampling_timesteps": steps, "ddim_eta": eta, "stabilization_level": 2}
        x, given = prompt_of(3)
        matrix = rows_of(mode, steps, scale)
        sampler, posterior = make(toy(), block_size=5, steps=steps, timesteps=8, ddim_eta=eta, stabilization_level=2)
        out = sample(sampler, posterior, x, given, matrix=matrix, random=RowRandom([3, 4]), chunk_size=chunk_size)
        slow = slow_sample(Diffusion(toy(), **options), x[:, :3], L, matrix, RowRandom([3, 4]), 5, chunk_size)
        torch.testing.assert_close(out.x, slow)
        horizons = [min(chunk_size, L - begin) for begin in range(3, L, chunk_size)]
        moves = [int(matrix(horizon).diff(dim=0).any(dim=1).sum()) for horizon in horizons]
        assert out.steps == posterior.forwards == sum(moves)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_random_numbers_belong_to_position_and_level(chunk_size):
    """Catches draws that depend on what is computed beside a token: where no token hears of another, every schedule
    that begins them in one order writes the same text."""
    x, given = prompt_of(2)

    def denoiser(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        return (x + levels[..., None] / 8).tanh()

    written = [
        sample(
            *make(denoiser, steps=steps, timesteps=8, ddim_eta=1.0),
            x,
            given,
            matrix=rows_of(mode, steps, scale),
            random=RowRandom([0, 1]),
            chunk_size=chunk_size,
        ).x
        for steps in (4, 8)
        for mode, scale in [("pyramid", 0.5), ("pyramid", 3.0), ("full_sequence", 1.0), ("autoregressive", 1.0)]
    ]
    for one in range(4):
        assert torch.equal(written[one], written[0]) and torch.equal(written[4 + one], written[4])


@settings(max_examples=25)
@for_all(
    mode=st.sampled_from([mode for mode in MODES if mode != "trapezoid_original"]),
    chunk_size=st.none() | st.integers(1, 9),
    mask=st.lists(st.booleans(), min_size=B * L, max_size=B * L),
    seed=st.integers(0, 1000),
    ddpm=st.booleans(),
)
def test_given_positions_never_change_and_all_others_finish(toy, mode, chunk_size, mask, seed, ddpm):
    """Catches infilling that overwrites a given token, in any row or chunk, or leaves noise behind."""
    steps = 8 if ddpm else 3
    sampler, posterior = make(toy(), timesteps=8, steps=steps, ddim_eta=1.0)
    x, _ = prompt_of(0)
    given = torch.tensor(mask).view(B, L)
    states = []
    out = sample(
        sampler,
        posterior,
        x,
        given,
        matrix=rows_of(mode, steps),
        random=RowRandom([seed, seed + 1]),
        chunk_size=chunk_size,
        on_row=lambda x, levels, _: states.append((x, levels)),
    )
    assert torch.equal(out.x[given], x[given])
    assert out.x.isfinite().all()
    for state, levels in states:
        assert torch.equal(state[given], x[given])
        assert not levels[given].any()
    if states:
        assert not states[-1][1].any()
        assert torch.equal(states[-1][0], out.x)
    for _, levels in posterior.denoiser.seen:
        assert levels.max() < 8


def test_a_prompt_is_a_mask_and_nothing_follows_a_full_one(toy):
    """Catches a second road for prompts: a column given in every row is context, wherever the caller had it from."""
    sampler, posterior = make(toy(), ddim_eta=1.0)
    x, given = prompt_of(4)
    x_elsewhere = torch.where(given[..., None], x, torch.full_like(x, 99.0))
    options = {"matrix": rows_of("pyramid"), "chunk_size": 3}
    first = sample(sampler, posterior, x, given, random=RowRandom([0, 1]), **options)
    second = sample(sampler, posterior, x_elsewhere, given, random=RowRandom([0, 1]), **options)
    assert torch.equal(first.x, second.x)
    before = posterior.forwards
    all_given = torch.ones(B, L, dtype=torch.bool)
    everything = sample(sampler, posterior, x, all_given, random=RowRandom([0, 1]), **options)
    assert torch.equal(everything.x, x)
    assert everything.steps == 0 and posterior.forwards == before


@pytest.mark.parametrize("hole", [False, True])
def test_a_batch_gives_each_row_what_it_gets_alone(toy, hole):
    """Catches draws, or decisions, that depend on a row's neighbours, guided and not."""
    sampler, posterior = make(toy(), ddim_eta=1.0, block_size=6)
    x, given = prompt_of(3, rows=3)
    if hole:
        given = given.clone()
        given[1, 5] = True
    target = torch.randn(C, generator=torch.Generator().manual_seed(1))
    for guidance_fn in (None, lambda x0_hat: (target * x0_hat.tanh()).sum()):
        options = {"matrix": rows_of("trapezoid"), "chunk_size": 3, "guidance_fn": guidance_fn}
        together = sample(sampler, posterior, x, given, random=RowRandom([5, 6, 7]), **options)
        for row in range(3):
            one = slice(row, row + 1)
            alone = sample(sampler, posterior, x[one], given[one], random=RowRandom([5 + row]), **options)
            torch.testing.assert_close(alone.x, together.x[one], rtol=1e-4, atol=1e-5)


def test_the_past_does_not_hear_of_the_future_chunk(toy):
    """Catches finished tokens that move when a later chunk is denoised."""
    sampler, posterior = make(toy())
    x, given = prompt_of(2)
    options = {"matrix": rows_of("pyramid"), "chunk_size": 3}
    short = sample(sampler, posterior, x[:, :5], given[:, :5], random=RowRandom([0, 1]), **options)
    longer = sample(sampler, posterior, x, given, random=RowRandom([0, 1]), **options)
    assert torch.equal(longer.x[:, :5], short.x)


def test_offset_is_in_the_window_only():
    """Catches positions that stay in finished tokens, count from the text's start, or reach guidance and traces."""
    clean = torch.randn(L, C, generator=torch.Generator().manual_seed(2))
    asked, shown, heard, traced = [], [], [], []

    class Watched(WholeWindow):
        def window(self, final: int, last: int, end: int) -> slice:
            asked.append(super().window(final, last, end))
            return asked[-1]

    def positions(length: int) -> torch.Tensor:
        return 10.0 * torch.arange(length)[:, None].expand(length, C)

    def denoiser(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        shown.append(x)
        return (clean[asked[-1]] + positions(x.shape[1])).expand_as(x) + 0 * x

    posterior = Watched(denoiser, 4, positions)
    sampler = Sampler(GaussianProcess(objective="pred_x0"), sampling_timesteps=4)
    x, given = clean.expand(B, -1, -1), prompt_of(3)[1]

    def hear(x0_hat: torch.Tensor) -> torch.Tensor:
        heard.append(x0_hat.detach())
        return 0.0 * x0_hat.sum()

    out = sample(
        sampler,
        posterior,
        x,
        given,
        matrix=rows_of("autoregressive"),
        random=RowRandom([0, 1]),
        chunk_size=2,
        guidance_fn=hear,
        on_row=lambda x, levels, _: traced.append((x, levels)),
    )
    assert [window for window, _ in groupby(asked)] == [slice(1, 5), slice(3, 7), slice(5, 9)]
    noise = RowRandom([0, 1]).normal(2, C)
    torch.testing.assert_close(shown[0][:, 2:], noise, rtol=0, atol=1e-5)  # only noise
    torch.testing.assert_close(out.x, x, rtol=1e-4, atol=1e-4)
    assert torch.equal(out.x[:, :3], x[:, :3])
    torch.testing.assert_close(heard[-1][0], clean[5:], rtol=1e-4, atol=1e-4)
    for state, levels in traced:
        done = levels == 0
        torch.testing.assert_close(state[done], x[done], rtol=1e-4, atol=1e-4)


def test_on_row_sees_every_row_of_every_chunk(toy):
    """Catches a trace that misses the initial noise or the last row, counts a chunk's noise as a run of the
    denoiser, or holds views which change later."""
    x, given = prompt_of(3)
    seen = []
    sample(
        *make(toy()),
        x,
        given,
        matrix=rows_of("pyramid"),
        random=RowRandom([0, 1]),
        chunk_size=4,
        on_row=lambda *state: seen.append(state),
    )
    heights = [len(scheduling_matrix("pyramid", horizon, 4, 1.0)) for horizon in (4, 2)]
    assert [runs for _, _, runs in seen] == [*range(heights[0]), *range(heights[0] - 1, sum(heights) - 1)]
    assert seen[0][1][0].tolist() == [0, 0, 0, 4, 4, 4, 4, 4, 4]
    assert seen[2][1][0].tolist() == [0, 0, 0, 2, 3, 4, 4, 4, 4]
    assert seen[-1][1][0].tolist() == [0] * 9
    assert not seen[0][0][:, 7:].any()
    assert not torch.equal(seen[0][0], seen[1][0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 4])
def test_forwards_are_the_runs_of_the_denoiser_so_far(toy, mode, chunk_size):
    """Catches a state that is said to have cost more, or less, than was run before it, and a sum that differs."""
    denoiser = toy()
    sampler, posterior = make(denoiser, block_size=7)
    runs: list[tuple[int, int]] = []
    x, given = prompt_of(3)
    out = sample(
        sampler,
        posterior,
        x,
        given,
        matrix=rows_of(mode),
        random=RowRandom([0, 1]),
        chunk_size=chunk_size,
        on_row=lambda x, levels, forwards: runs.append((forwards, len(denoiser.seen))),
    )
    assert all(said == made for said, made in runs)
    assert runs[0] == (0, 0) and runs[-1] == (posterior.forwards, len(denoiser.seen))
    assert out.steps == posterior.forwards
    assert posterior.token_forwards == sum(levels.numel() for _, levels in denoiser.seen)


@pytest.mark.parametrize("horizon", [5, 9])
def test_chunks_that_do_not_fit_are_named(toy, horizon):
    """Catches a horizon cut short by the window, whose first tokens would never be denoised."""
    posterior = WholeWindow(toy(), 4)
    posterior.check(rows_of("pyramid")(4))
    with pytest.raises(ValueError, match=f"{horizon} tokens at once do not fit the window of 4: set chunk_size"):
        posterior.check(rows_of("pyramid")(horizon))
