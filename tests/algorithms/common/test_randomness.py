"""Per-row randomness: a row draws by its own seed alone."""

import torch

from algorithms.common.randomness import RowRandom, StepUniforms


def test_a_row_draws_the_same_alone_and_in_a_batch():
    """Catches draws from one generator shared by the rows."""
    batch, alone = RowRandom([5, 9]), RowRandom([9])
    for draw in (lambda r: r.uniform(3), lambda r: r.normal(2, 4), lambda r: r.uniform(1)):
        assert torch.equal(draw(batch)[1], draw(alone)[0])


def test_uniforms_are_those_of_each_generator():
    """Catches numbers that change with the way they are drawn, and with them every text."""
    for shape in ((3,), (16, 2, 5), (40,)):
        expected = [torch.rand(shape, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (5, 9)]
        assert torch.equal(RowRandom([5, 7, 9]).uniform(*shape, rows=[0, 2]), torch.stack(expected))


def test_uniforms_of_steps_are_those_of_the_row_alone():
    """Catches a row whose numbers depend on which other rows are still being decoded."""
    random = RowRandom([3, 4])
    draws = StepUniforms(random, torch.arange(2), length=5, per_step=2)
    alone = StepUniforms(RowRandom([4]), torch.arange(1), length=5, per_step=2)
    assert torch.equal(draws.once()[1:], alone.once())
    for step in range(40):
        if step == 7:
            draws.keep(torch.tensor([1]), torch.tensor([1]))
        assert torch.equal(draws.next()[-1:], alone.next())
