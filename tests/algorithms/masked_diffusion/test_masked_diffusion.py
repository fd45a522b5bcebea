"""The method as a whole: golden losses of tiny-diffusion, what is masked, infilling, refusals."""

import numpy as np
import pytest
import torch

from algorithms.common.backbone import BackboneConfig
from algorithms.common.backbone.weights import from_tiny_diffusion
from algorithms.common.decoder import Request
from algorithms.masked_diffusion.decoding import Threshold, TopConfidence
from algorithms.masked_diffusion.masked_diffusion import MaskedDiffusion, MaskedDiffusionConfig
from algorithms.masked_diffusion.masking import Masks, hide
from experiments.run.build import build
from tests.algorithms.writing import write
from tests.golden.values import FOLDER

GOLDEN = FOLDER / "tiny_diffusion_models.npz"
V = 7


def make(**settings) -> MaskedDiffusion:
    backbone = BackboneConfig(n_layer=2, n_head=2, n_embd=16, block_size=12, style=settings.pop("style", "rope"))
    return MaskedDiffusion(MaskedDiffusionConfig(backbone, **settings), vocabulary_size=V)


def ids(rows: int = 4, length: int = 13) -> torch.Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(0))


def test_logits_and_loss_equal_tiny_diffusion() -> None:
    """Catches a mask token in the wrong row, a causal backbone, and another mean than the reference's."""
    with np.load(GOLDEN) as data:
        values = {k.removeprefix("diffusion/"): torch.tensor(data[k]) for k in data.files if k.startswith("diffusion/")}
    state = {k.removeprefix("state_dict/"): v for k, v in values.items() if k.startswith("state_dict/")}
    backbone = BackboneConfig(n_layer=2, n_head=2, n_embd=32, block_size=24)
    method = MaskedDiffusion(MaskedDiffusionConfig(backbone, objective="reference"), vocabulary_size=65)
    method.model.load_state_dict(from_tiny_diffusion(state, mask_first=True))
    x, targets = ((values[key].long() - 1) % 66 for key in ("idx", "targets"))  # the mask last
    masked = values["mask"]
    logits, hidden = method.model(x), method.model.hidden(x)
    torch.testing.assert_close(logits.roll(1, -1), values["logits"], rtol=1e-5, atol=1e-6)
    loss = method.restoration_loss(hidden, targets, Masks(masked, torch.ones(3), masked.sum()))
    torch.testing.assert_close(loss, values["loss"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", ["masked_mean", "continuous_time", "any_order", "reference"])
def test_masks_spare_the_first_token(objective: str) -> None:
    """Catches a window whose given token is hidden: the likelihood would not be the one of a GPT's tokens."""
    method, batch = make(objective=objective), ids(64)
    masked, weight, _ = method.draw(batch, torch.Generator().manual_seed(1))
    x = hide(batch, masked, method.mask_id)
    assert torch.equal(x[:, 0], batch[:, 0])
    assert torch.equal(x[:, 1:] == method.mask_id, masked)
    assert torch.equal(torch.where(masked, batch[:, 1:], x[:, 1:]), batch[:, 1:])
    assert masked.any() and not masked.all() and weight.shape == (64,)


@pytest.mark.parametrize("objective", ["continuous_time", "any_order"])
def test_both_forms_of_the_bound_agree(objective: str) -> None:
    """Catches a training loss that is not the bound that evaluation reports: same weights, same mean."""
    method, batch = make(objective=objective).eval(), ids(32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        trained = torch.stack([method.loss(batch, generator)["loss"] for _ in range(300)])
        bound = method.likelihoods()["any_order"].nll(batch, generator).mean()
    error = trained.std() / 300**0.5
    assert abs(float(trained.mean() - bound)) < 4 * float(error) + 0.002


def test_masked_mean_is_the_mean_over_masked_tokens() -> None:
    """Catches a mean over rows or over all tokens, and a softmax that runs over the mask."""
    method, batch = make(objective="masked_mean").eval(), ids(8)
    draws = method.draw(batch, torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = method.logits(hide(batch, draws.masked, method.mask_id))[:, 1:]
        expected = torch.nn.functional.cross_entropy(logits[draws.masked], batch[:, 1:][draws.masked])
        torch.testing.assert_close(method.loss_of(batch, draws)["loss"], expected)


@pytest.mark.parametrize("objective", ["masked_mean", "reference"])
def test_a_batch_without_masks_has_a_finite_loss(objective: str) -> None:
    """Catches 0/0 in a mean on an unlucky batch."""
    method = make(objective=objective)
    none = Masks(torch.zeros(2, 12, dtype=torch.bool), torch.ones(2), torch.tensor(0))
    assert method.restoration_loss(torch.randn(2, 12, method.config.backbone.n_embd), ids(2)[:, 1:], none) == 0


def test_the_mask_is_never_predicted() -> None:
    """Catches a softmax over the mask token: the likelihood would lose mass, and text could hold masks."""
    method = make()
    with torch.no_grad():
        method.model.lm_head.weight[method.mask_id] += 100.0
        method.model.lm_head.weight[method.mask_id] *= 100.0
    out = write(method.eval(), ids()[:, :2], length=20, seeds=range(4))
    assert int(out.ids.max()) < V
    assert method.logits(ids()).size(-1) == V


@pytest.mark.parametrize("style", ["rope", "nanogpt"])
def test_infilling_keeps_what_is_given_and_sees_both_sides(style: str) -> None:
    """Catches a suffix that is overwritten, or that the network does not get to see."""
    method = make(style=style, decoder=TopConfidence(chunk_len=4, temperature=0.0)).eval()
    prompt, suffix = ids()[:, :3], ids()[:, 3:6]
    texts = torch.cat([prompt, torch.zeros(4, 4, dtype=torch.long), suffix], 1)
    given = torch.tensor([True] * 3 + [False] * 4 + [True] * 3).expand(4, -1)
    out = method.generate(Request(texts, given, range(4)))
    assert torch.equal(out.ids[:, :3], prompt) and torch.equal(out.ids[:, 7:], suffix)
    x = torch.cat([prompt, torch.full((4, 4), V), suffix, torch.full((4, 3), V)], 1)
    other = x.clone()
    other[:, 7:10] = (suffix + 1) % V
    assert not torch.allclose(method.logits(x)[:, 3:7], method.logits(other)[:, 3:7])


def test_a_batch_gives_each_row_what_it_gets_alone() -> None:
    """Catches draws or windows shared between rows."""
    method = make(decoder=Threshold(threshold=0.3)).eval()
    together = write(method, ids()[:, :2], length=30, seeds=[5, 6, 7, 8])
    for row in range(4):
        alone = write(method, ids()[row : row + 1, :2], length=30, seeds=[5 + row])
        assert torch.equal(alone.ids[0], together.ids[row])
        assert int(alone.row_forwards[0]) == int(together.row_forwards[row])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: write(m, torch.full((1, 2), V), length=2, seeds=[0]), "mask token"),
        (lambda m: write(m, ids()[:1, :2], length=0, seeds=[0]), "length to generate is 0"),
        (lambda m: write(m, ids()[:1, :2], length=2, seeds=[0], decoder=TopConfidence(top_k=8)), "top_k is 8"),
        (lambda m: write(m, ids()[:1, :2], length=2, seeds=[0], decoder=TopConfidence(chunk_len=14)), "chunk_len"),
        (
            lambda m: build(type(m.config), {"objective": "mean"}, "algorithm"),
            "objective is 'mean': choose one of",
        ),
        (
            lambda m: build(type(m.config), {"validation_masks": 0}, "algorithm"),
            "algorithm.validation_masks is 0",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, words: str) -> None:
    """Catches an error from deep in torch in place of a sentence that names the thing."""
    with pytest.raises(ValueError, match=words) as caught:
        call(make().eval())
    assert "\n" not in str(caught.value)
