"""TextDataModule: batches by seed, step and rank; resumption; under a real Trainer."""

from itertools import islice
from types import SimpleNamespace

import lightning
import pytest
import torch

from datasets import data_module
from datasets.data_module import TextDataModule

TEXT = "".join(f"{number} speak, hear me speak.\n" for number in range(300))


@pytest.fixture
def make(text_config):
    """A data module on a small text; `trainer` stands for the fields that it reads of a Trainer."""

    def build(trainer=None, text=TEXT, **sizes):
        given = {"block_size": 8, "batch_size": 4, "eval_batch_size": 5, "seed": 0}
        module = TextDataModule(text_config(text), **(given | sizes))
        if trainer is not None:
            fields = {"global_step": 0, "accumulate_grad_batches": 1, "global_rank": 0, "world_size": 1}
            module.trainer = SimpleNamespace(**(fields | trainer))
        return module

    return build


def take(module, count):
    """What the Trainer's training loader yields first; without a Trainer, the batches from the start."""
    batches = module.training_batches(0) if module.trainer is None else module.train_dataloader()
    return [batch.tolist() for batch in islice(batches, count)]


def test_what_prepare_offers(make):
    """Catches a property that is missing before or after a second call."""
    module = make()
    assert module.prepare() is module.prepare()
    assert set(module.splits) == {"train", "val", "test", "val_whole"}
    assert module.vocabulary_size == module.tokenizer.vocabulary_size == len(set(TEXT))
    assert module.characters_per_token["val"] == 1.0
    assert module.fingerprint == make().prepare().fingerprint


def test_batches_are_windows_of_the_text(make):
    """Catches a batch of wrong shape or type, and windows that are not in the text."""
    module = make()
    for batch in islice(module.training_batches(0), 5):
        assert batch.shape == (4, 9)
        assert batch.dtype == torch.int64
        assert all(module.tokenizer.decode(row) in TEXT for row in batch)


def test_a_resumed_run_goes_on_where_it_stopped(make):
    """Catches data seen twice or skipped after a resume, with and without gradient accumulation."""
    whole = take(make(), 10)
    assert take(make(), 10) == whole
    assert take(make({"global_step": 3}), 7) == whole[3:]
    assert take(make({"global_step": 2, "accumulate_grad_batches": 3}), 4) == whole[6:]
    assert take(make(seed=1), 10) != whole


def test_batches_to_memorise_come_again(make):
    """Catches a cycle that starts anew, or elsewhere, when the run is resumed."""
    whole = take(make(), 3)
    assert take(make(overfit_batches=3), 8) == [*whole, *whole, *whole[:2]]
    assert take(make({"global_step": 4}, overfit_batches=3), 3) == [whole[1], whole[2], whole[0]]


def test_ranks_share_the_work(make):
    """Catches ranks with equal data, in training and in evaluation."""
    alone = take(make(batch_size=8), 1)[0]
    ranks = [make({"global_rank": rank, "world_size": 2}) for rank in range(2)]
    assert sorted(take(ranks[0], 1)[0] + take(ranks[1], 1)[0]) == sorted(alone)
    parts = [list(make().eval_dataloader("val_whole", rank, 2)) for rank in range(2)]
    assert [batch.tolist() for batch in ranks[1].val_dataloader()] == [
        batch.tolist() for batch in make().eval_dataloader("val", 1, 2)
    ]
    whole = [window.tolist() for batch in make().eval_dataloader("val_whole") for window in batch]
    dealt = [[window.tolist() for batch in part for window in batch] for part in parts]
    assert dealt == [whole[0::2], whole[1::2]]


def test_a_process_without_windows_takes_part(make):
    """Catches a loader without batches: its process would skip the evaluation, and the others wait for it."""
    loader = make(max_batches=1).eval_dataloader("val", 7, 8)
    assert len(loader) == 1 and [batch.shape for batch in loader] == [(0, 9)]
    assert len(loader.lengths) == 5  # windows of one batch, whoever evaluates them


@pytest.mark.parametrize("sizes", [{}, {"eval_batch_size": 2}, {"eval_batch_size": 100}])
@pytest.mark.parametrize("world_size", [1, 3])
def test_training_validates_on_the_first_of_a_large_split(make, monkeypatch, sizes, world_size):
    """Catches a limit that depends on batches or processes, and one that reaches beyond training."""
    monkeypatch.setattr(data_module, "VALIDATION_TOKENS", 50)
    places = [{"global_rank": rank, "world_size": world_size} for rank in range(world_size)]
    modules = [make(place, max_batches="auto", **sizes) for place in places]
    seen = [window.tolist() for module in modules for batch in module.val_dataloader() for window in batch]
    whole = [window.tolist() for batch in make().eval_dataloader("val") for window in batch]
    assert sorted(seen) == sorted(whole[:7]) and len(whole) > 7
    tokens = len(modules[0].splits["val"]) - 1
    assert modules[0].part_of("val", training=True) == f"the first 56 of {tokens} tokens"
    assert modules[0].part_of("val") == "" and len(modules[0].eval_dataloader("val").lengths) == len(whole)
    monkeypatch.setattr(data_module, "VALIDATION_TOKENS", tokens)
    assert modules[0].part_of("val", training=True) == ""


def test_evaluation_covers_the_split_each_time(make):
    """Catches a lost or repeated target, and a loader that is empty at the second validation."""
    module = make()
    loader = module.eval_dataloader("val")
    assert loader.split == "val" and loader.characters_per_token == 1.0
    for _ in range(2):
        targets = torch.cat([batch[:, 1:].flatten() for batch in loader])
        assert targets.tolist() == module.splits["val"][1:].tolist()


def test_wrong_requests_are_one_sentence(make):
    """Catches a KeyError for a split, and sizes that would fail deep in the work."""
    with pytest.raises(ValueError, match="it has train, val, test, val_whole"):
        make().eval_dataloader("validation")
    with pytest.raises(ValueError, match="batch_size=0"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="seed=-1"):
        make(seed=-1)
    with pytest.raises(ValueError, match="split val has"):
        make(block_size=1000).prepare()


class Recorder(lightning.LightningModule):
    """Keeps what it is given."""

    def __init__(self, vocabulary_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocabulary_size, vocabulary_size)
        self.trained, self.validated = [], []

    def training_step(self, batch, index):
        self.trained.append(batch.tolist())
        return torch.nn.functional.cross_entropy(self.table(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def validation_step(self, batch, index):
        self.validated += batch[:, 1:].flatten().tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_under_a_trainer_resume_equals_uninterrupted(make, tmp_path):
    """Catches what only Lightning shows: loaders that it refuses, skips in, or starts anew after a checkpoint."""

    def fit(steps, checkpoint=None):
        module = make()
        recorder = Recorder(module.prepare().vocabulary_size)
        trainer = lightning.Trainer(
            max_steps=steps,
            accumulate_grad_batches=2,
            val_check_interval=4,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(recorder, module, ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "state.ckpt")
        return recorder, module

    whole, module = fit(6)
    first, _ = fit(3)
    second, _ = fit(6, tmp_path / "state.ckpt")
    assert len(whole.trained) == 12
    assert first.trained + second.trained == whole.trained
    assert whole.validated == module.splits["val"][1:].tolist() * 3


def test_a_batch_is_ready_one_step_ahead(make, monkeypatch):
    """Catches a loader of known length, or another fetcher: a GPU would wait at each step for its batch to be made."""
    events = []
    monkeypatch.setattr(data_module, "to_tensor", lambda windows: events.append("made") or torch.from_numpy(windows))
    recorder = Recorder(make().vocabulary_size)
    monkeypatch.setattr(recorder, "on_train_batch_start", lambda batch, index: events.append(f"step {index}"))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    lightning.Trainer(max_steps=3, limit_val_batches=0, accelerator="cpu", **quiet).fit(recorder, make())
    assert events == ["made", "made", "step 0", "made", "step 1", "made", "step 2"]
