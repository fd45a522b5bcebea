"""Likelihoods are of windows: neither the size of batches nor the number of processes decides them."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from datasets.config import DatasetConfig
from datasets.data_module import TextDataModule
from experiments.analysis.likelihood import Windows
from experiments.evaluation.likelihood import measure
from tests.test_configs import composed, make

SMALL = ["n_layer=1", "n_head=2", "n_embd=8", "block_size=24"]
METHODS = {  # with what keeps their likelihoods cheap
    "gpt": [],
    "df_lm": ["diffusion.timesteps=8"],
    "df_lm_shifted": ["diffusion.timesteps=8"],
    "df_lm_faithful": [],
    "masked_diffusion": [],
    "diffusion_flow": [],
    "block_diffusion": ["block_len=5"],
}
TEXT = "abcdefghijk" * 220  # the test split has 5 windows of 24 tokens


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    folder = tmp_path_factory.mktemp("windows")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return DatasetConfig(name="text_file", path=str(folder / "text.txt"), cache_dir=str(folder))


def measured(algorithm, dataset: DatasetConfig, batch_size: int, processes: int) -> Windows:
    """Every likelihood of every window, in the order of the windows; the processes one after the other."""
    data = TextDataModule(dataset, block_size=24, batch_size=1, eval_batch_size=batch_size, seed=0)
    parts, numbers = [], []
    for rank in range(processes):
        loader = data.eval_dataloader("test", rank, processes)
        if len(loader.numbers[0]):
            pairs = zip(loader.numbers, loader, strict=True)
            found = measure(algorithm, pairs, number=len(loader), context=nullcontext, report=print)
            parts.append(found.windows)
            numbers += np.concatenate(loader.numbers).tolist()
    order = np.argsort(numbers)
    assert np.array(numbers)[order].tolist() == list(range(len(numbers)))
    nats = {name: np.concatenate([part.nats[name] for part in parts])[order] for name in parts[0].nats}
    return Windows(np.concatenate([part.tokens for part in parts])[order], nats)


@pytest.mark.parametrize("name", [*METHODS])
def test_likelihoods_depend_on_neither_batches_nor_processes(name: str, dataset: DatasetConfig) -> None:
    """Catches noise seeded by batch or process: bounds would differ with either, and no two runs be compared."""
    settings = [*(f"backbone.{size}" for size in SMALL), *METHODS[name]]
    algorithm = make(composed(f"algorithm={name}", *(f"algorithm.{one}" for one in settings))).eval()
    whole = measured(algorithm, dataset, 8, 1)
    assert whole.tokens.tolist() == [24] * 5
    for batch_size, processes in ((3, 1), (1, 3), (8, 7)):
        other = measured(algorithm, dataset, batch_size, processes)
        assert np.array_equal(other.tokens, whole.tokens)
        for key, nats in whole.nats.items():
            np.testing.assert_allclose(other.nats[key], nats, rtol=1e-5, err_msg=f"{name}/{key}")


def test_noise_of_windows_differs(dataset: DatasetConfig) -> None:
    """Catches one seed for all windows: the errors of a bound would not average out."""
    algorithm = make(composed("algorithm=df_lm_faithful", *(f"algorithm.backbone.{size}" for size in SMALL))).eval()
    found = measured(algorithm, dataset, 8, 1).nats["nll"][:4]
    assert len({*found.round(3).tolist()}) == 4
    torch.manual_seed(1)
    assert measured(algorithm, dataset, 8, 1).nats["nll"][:4] == pytest.approx(found)
