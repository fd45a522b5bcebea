"""Mistakes on the command line: one line on stderr that names the thing and the remedy, exit status 1, no work done."""

import json
from pathlib import Path

import pytest

from tests.conftest import Main

COMPOSITION = [
    ("algorithm=gtp", "unknown choice algorithm=gtp: did you mean 'gpt'?"),
    ("algoritm=gpt", "unknown config key 'algoritm': did you mean 'algorithm'?"),
    ("experiment=shakespear", "unknown choice experiment=shakespear: did you mean 'shakespeare'?"),
    ("algorithm/backbone=huge", "unknown choice algorithm/backbone=huge"),
    ("algorithm.backbone.n_layers=2", "unknown config key 'algorithm.backbone.n_layers': did you mean"),
    ("experiment.max_steps=2", "did you mean 'experiment.training.max_steps'?"),
    ("experiment.tasks=training, test", "reads as several values: quote it"),
    ("experiment.tasks=(", "cannot read 'experiment.tasks=('"),
    ("experiment.tasks=läuf", "cannot read 'experiment.tasks=läuf': write key=value, quoted as in"),
    ("algorithm=5", "unknown choice algorithm=5: choose one of"),
    ("algorithm=null", "unknown choice algorithm=null: choose one of"),
    ("+seed=1", "+seed= adds a key, and there is one already: leave out the +"),
    ("~sead", "unknown config key 'sead': did you mean 'seed'?"),
    ("name=${algorithm.nam}", "Interpolation key 'algorithm.nam' not found"),
    ("hydra.run.dir=${nowhere}", "config key 'hydra.run.dir': Interpolation key 'nowhere' not found"),
    ("hydra/sweeper=optuna", "pip install hydra-optuna-sweeper (its last release, 1.3.0, works with optuna<3 only)"),
    (
        "hydra/job_logging=colorlog",
        "hydra/job_logging=colorlog needs a plugin that is not installed: pip install hydra-",
    ),
    ("hydra/launcher=nonesuch", "unknown choice hydra/launcher=nonesuch: choose one of basic"),
    ("launcher=nonesuch", "unknown choice launcher=nonesuch"),
]
CONVERSION = [
    ("+algorithm.backbone.layers=2", "unknown config key 'algorithm.backbone.layers'"),
    ("+colour=red", "unknown config key 'colour': choose one of algorithm, dataset, experiment, trainer, logger, "),
    ("~algorithm.name", "config key 'algorithm.name' has no value: set it"),
    ("algorithm.decoder.temperature=nan", "algorithm.decoder.temperature is nan: it must be a finite number"),
    ("callbacks.line_every_seconds=-1", "callbacks.line_every_seconds is -1: it must be at least 0"),
    ("experiment.tasks=[training,test,training]", "experiment.tasks names 'training' twice: leave one of them out"),
    ("seed=9223372036854775808", "seed is 9223372036854775808: it must be at most 4294967295"),
    ("experiment.training.batch_size=1000000000000", "experiment.training.batch_size is 1000000000000, for which"),
    ("algorithm.backbone.n_embd=100000000", "GB of memory would not be enough, and there are"),
    ("experiment.sampling.length=10000000000000", "experiment.sampling.length is 10000000000000, for which"),
    ("+trainer.fast_dev_run=true", "trainer.fast_dev_run is decided by debug=smoke: set that instead"),
    ("trainer.devices=0", "trainer.devices is 0: give how many"),
    ("trainer.precision=17", "trainer.precision is '17': choose one of auto, 32-true"),
    ("algorithm.backbone.block_size=60000", "one window takes 60001: lower experiment.block_size to at most"),
    ("experiment.training.max_steps=many", "'experiment.training.max_steps' has a wrong value"),
    ("experiment.training.max_steps=true", "'experiment.training.max_steps' has a wrong value"),
    ("+logger.log_every=5", "unknown config key 'logger.log_every': did you mean 'logger.log_every_steps'?"),
    ("algorithm.optimizer.lr=null", "'algorithm.optimizer.lr' has a wrong value"),
    ("algorithm.optimizer.name=moun", "algorithm.optimizer.name is 'moun', which does not fit"),
    ("algorithm.optimizer.momentum=1", "algorithm.optimizer.momentum is 1: it must be below 1"),
    ("experiment.training.batch_size=0", "experiment.training.batch_size is 0: it must be at least 1"),
    ("experiment.evaluation.max_batches=0", "experiment.evaluation.max_batches is 0: it must be at least 1"),
    ("experiment.evaluation.max_batches=all", "'experiment.evaluation.max_batches' has a wrong value"),
    ("experiment.training.ema_decay=1", "experiment.training.ema_decay is 1: it must be below 1"),
    ("experiment.tasks=[training,tset]", "has no task 'tset': did you mean 'test'?"),
    ("experiment.tasks=[]", "experiment.tasks is empty"),
    ("experiment.tasks=[sampling]", "the task 'sampling' needs trained weights: say load=RUN_FOLDER"),
    ("experiment.tasks=[test,training]", "the task 'test' needs trained weights"),
    ("seed=-1", "seed is -1: it must be at least 0"),
    ("seed=x", "config key 'seed' has a wrong value: it must be a valid integer, not 'x'"),
    ("experiment.block_size=65", "experiment.block_size is 65, above the context of 64"),
    ("experiment.sampling.prompt='THE Σ'", "experiment.sampling.prompt: the vocabulary of"),
    ("trainer.accelerator=mps", "trainer.accelerator=mps, but"),
    ("+trainer.max_steps=3", "trainer.max_steps is decided by experiment.training.max_steps"),
    ("dataset.path=nowhere.txt", "/nowhere.txt does not exist: check the spelling"),
    ("hydra.run.dir=corpus.txt/run", "Not a directory: corpus.txt/run; give a place that can be written to"),
    ("load=corpus.txt", "corpus.txt is not a checkpoint"),
    ("resume=nowhere", "there is no run folder or checkpoint at nowhere"),
    ("algorithm.decoder.top_k=100", "algorithm.decoder.top_k is 100, above the vocabulary of"),
    ("experiment.sampling.suffix=king", "experiment.sampling.suffix cannot be seen by algorithm=gpt"),
    ("experiment.evaluation.likelihood_split=train", "likelihood_split is 'train': choose one of val, val_whole, test"),
]
MASKED = [
    ("algorithm/decoder=pyramid", "algorithm.decoder.name is 'matrix', which does not fit"),
    ("algorithm/decoder=flow_quality", "algorithm.decoder.name is 'flow_threshold', which does not fit"),
    (
        "algorithm/decoder=threshold algorithm.decoder.threshold=1.5",
        "algorithm.decoder.threshold is 1.5: it must lie in [0, 1]",
    ),
    (
        "algorithm/decoder=two_stage algorithm.decoder.draft_threshold=0.95",
        "algorithm.decoder.draft_threshold is 0.95, above",
    ),
    (
        "algorithm/decoder=two_stage algorithm.decoder.treshold=0.9",
        "unknown config key 'algorithm.decoder.treshold': did you mean",
    ),
    ("algorithm.decoder.top_k=100", "algorithm.decoder.top_k is 100, above the vocabulary of"),
    ("algorithm.decoder.chunk_len=0", "algorithm.decoder.chunk_len is 0: it must be at least 1"),
    ("algorithm.decoder.chunk_len=66", "algorithm.decoder.chunk_len is 66: the window holds 65"),
    ("algorithm.decoder.context_len=65", "algorithm.decoder.context_len is 65"),
    ("experiment.sampling.prompt=a_king", "experiment.sampling.prompt: the vocabulary of"),
    ("algorithm.objective=mean", "algorithm.objective is 'mean': choose one of"),
]


@pytest.mark.parametrize(("override", "sentence"), COMPOSITION + CONVERSION)
def test_one_sentence_and_no_work(smoke: Main, override: str, sentence: str) -> None:
    """Catches a traceback, a silent default, or a mistake found only after training."""
    Path("corpus.txt").write_text("no checkpoint", encoding="utf-8")
    outcome = smoke(override)
    assert outcome.status == 1
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert sentence in outcome.err
    assert "--- training" not in outcome.out
    assert not list(Path.cwd().glob("outputs/*/*/metrics.csv"))


def test_a_misspelling_beside_resume_auto(smoke: Main) -> None:
    """Catches a new run that is announced where there will be none."""
    outcome = smoke("resume=auto", "algorithm=gtp")
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert "did you mean 'gpt'" in outcome.err and "starting" not in outcome.err


@pytest.mark.parametrize(("overrides", "sentence"), MASKED)
def test_decoders_that_cannot_work_are_refused(smoke: Main, overrides: str, sentence: str) -> None:
    """Catches a setting of a decoder that is found out only when the training is done."""
    outcome = smoke("algorithm=masked_diffusion", *overrides.split(" "))
    assert outcome.status == 1
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1 and sentence in outcome.err
    assert "--- training" not in outcome.out


def test_text_between_two_texts(smoke: Main) -> None:
    """Catches a suffix that is not where it was asked for."""
    outcome = smoke(
        "algorithm=masked_diffusion",
        "experiment.tasks=[training,sampling]",
        "experiment.sampling.prompt=king",
        "experiment.sampling.suffix=queen",
        "hydra.run.dir=run",
    )
    assert outcome.status == 0, outcome.err
    record = json.loads(Path("run/samples/samples.json").read_text(encoding="utf-8"))
    assert all(t.startswith("king") and t.endswith("queen") and len(t) == 4 + 32 + 5 for t in record["texts"])
    assert record["tokens_per_forward"] == 1.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(b"", "empty"), (b"too short", "only 9 characters"), (b"fine until here \xff\xfe", "byte")],
)
def test_unusable_corpora(smoke: Main, text: bytes, sentence: str) -> None:
    """Catches an empty, short or binary file that reaches training."""
    Path("bad.txt").write_bytes(text)
    outcome = smoke("dataset.path=bad.txt")
    assert outcome.status == 1 and outcome.err.count("\n") == 1 and sentence in outcome.err


def test_levels_out_of_range(smoke: Main) -> None:
    """Catches an impossible decoder of Diffusion Forcing that is found only when sampling begins."""
    outcome = smoke("algorithm=df_lm", "algorithm.decoder.sampling_timesteps=1000")
    assert outcome.status == 1 and "sampling_timesteps" in outcome.err and "--- training" not in outcome.out


@pytest.mark.parametrize("asked", ["trainer=fsdp", "trainer.strategy=fsdp", "trainer.strategy=deepspeed_stage_3"])
def test_split_weights_are_refused(smoke: Main, asked: str) -> None:
    """Catches a strategy under which clipping, decay groups and logged norms would be those of one shard."""
    outcome = smoke(asked)
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert f"{asked} splits a model over devices" in outcome.err and "4 billion parameters in 80 GB" in outcome.err


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            [
                "algorithm/decoder=pyramid",
                "algorithm.decoder.chunk_size=66",
                "algorithm.decoder.use_cache=false",
                "experiment.sampling.length=80",
            ],
            "algorithm.decoder: 66 tokens at once do not fit the window of 64",
        ),
        (
            ["algorithm/decoder=full_sequence", "algorithm.decoder.chunk_size=null", "experiment.sampling.length=80"],
            "algorithm.decoder: 80 tokens in flight do not fit the context of 64",
        ),
        (["algorithm.diffusion.cum_snr_decay=2"], "algorithm.diffusion.cum_snr_decay is 2: it must be at most 1"),
        (["algorithm.diffusion.snr_clip=0"], "algorithm.diffusion.snr_clip is 0: it must be above 0"),
        (["algorithm.decoder.ddim_eta=2"], "algorithm.decoder.ddim_eta is 2: it must be at most 1"),
        (
            ["algorithm.backbone.block_size=1"],
            "must be below the 1 tokens of a text: raise algorithm.backbone.block_size",
        ),
        (["algorithm.decoder.schedule=piramid"], "algorithm.decoder.schedule is 'piramid': did you mean 'pyramid'?"),
        (["algorithm.streams.max_window=64"], "algorithm.streams.max_window is 64: it must be below the 64 tokens"),
        (["algorithm.backbone.n_embd=30"], "algorithm.backbone.n_embd / n_head is 15: rotary positions need an even"),
        (
            ["algorithm/decoder=autoregressive"],
            "algorithm.decoder.name is 'autoregressive', which does not fit algorithm.name=df_lm: choose "
            "algorithm/decoder=autoregressive_matrix|",
        ),
        (
            ["algorithm.diffusion.objective=pred_noise"],
            "algorithm.diffusion.objective is 'pred_noise': parameterisation",
        ),
        (
            ["algorithm/decoder=pyramid", "algorithm.decoder.keyword='Σ'", "algorithm.decoder.guidance_scale=1"],
            "algorithm.decoder.keyword: the vocabulary of ",
        ),
    ],
)
def test_a_decoder_that_cannot_be(smoke: Main, overrides: list[str], sentence: str) -> None:
    """Catches a decoder whose fault shows only after the training it was meant to follow."""
    outcome = smoke("algorithm=df_lm", *overrides)
    assert outcome.status == 1
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert sentence in outcome.err
    assert "--- training" not in outcome.out


def test_a_checkpoint_of_another_kind(smoke: Main, main: Main) -> None:
    """Catches weights of another method, size or vocabulary that load into the wrong model."""
    smoke("hydra.run.dir=run", "experiment.tasks=[training]")
    run = ["load=run", "experiment.tasks=[sampling]"]
    assert "holds algorithm=gpt, not df_lm: say algorithm=gpt" in smoke("algorithm=df_lm", *run).err
    assert "say algorithm.backbone.n_layer=1" in main(*run, "algorithm.backbone.n_layer=2").err
    Path("other.txt").write_text("0123456789 " * 2000, encoding="utf-8")
    other = ["load=run", "dataset=text_file", "dataset.path=other.txt", "experiment.tasks=[validation]"]
    assert "say dataset.tokenizer=loaded to keep that of the checkpoint" in main(*other).err


def test_a_folder_in_use_is_left_alone(smoke: Main) -> None:
    """Catches a second run that overwrites the first one's files."""
    smoke("hydra.run.dir=run", "experiment.tasks=[training]")
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    outcome = smoke("hydra.run.dir=run", "seed=1")
    assert outcome.status == 1 and "run already holds a run" in outcome.err
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before


def test_too_little_room_for_checkpoints(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a disk whose lack of room shows only at the first checkpoint."""
    from types import SimpleNamespace

    from experiments import base_experiment

    monkeypatch.setattr(base_experiment.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    outcome = smoke()
    assert outcome.status == 1 and "MB free, and the checkpoints need" in outcome.err


def test_a_full_disk_while_training(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback when a checkpoint cannot be written; the trace belongs into the run folder."""
    from experiments.training import checkpoints as checkpoint

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    outcome = smoke()
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert "cannot write" in outcome.err and "No space left on device" in outcome.err
    assert "Traceback" in next(Path("outputs").glob("*/*/error.log")).read_text(encoding="utf-8")


def test_a_bug_keeps_its_traceback(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a fault of ours that is reported as a mistake of the user's."""
    from experiments.language_modeling import LanguageModeling

    def broken(self: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(LanguageModeling, "training", broken)
    with pytest.raises(KeyError, match="a bug"):
        smoke()


def test_full_error_on_request(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches HYDRA_FULL_ERROR=1 that shows no more than the sentence."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="seed is -1"):
        smoke("seed=-1")


def test_a_missing_launcher_names_its_package(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches Hydra's list of search paths where `pip install` is the answer."""
    from hydra.errors import MissingConfigException

    from experiments.run import errors

    text = "In 'launcher/joblib': Could not find 'hydra/launcher/joblib'\n\nAvailable options in ...:\n\tbasic"
    said = errors.sentence(MissingConfigException(message=text, missing_cfg_file=None), [])
    assert said == "launcher=joblib needs a plugin that is not installed: pip install hydra-joblib-launcher"


def test_a_lack_of_memory_is_one_sentence(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback where a batch is too large for the memory that is left."""
    from experiments.language_modeling import LanguageModeling

    for error in (
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ):

        def full(self: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(LanguageModeling, "training", full)
        outcome = smoke()
        assert outcome.status == 1 and outcome.err.count("\n") == 1
        assert "there is not enough memory: lower experiment.training.batch_size" in outcome.err


def test_compiling_without_a_compiler(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a missing compiler, or CUDA graphs without CUDA, that shows only after the data is prepared."""
    monkeypatch.setenv("CXX", "nonesuch++")
    outcome = smoke("experiment.training.compile=true")
    assert outcome.status == 1 and outcome.err.count("\n") == 1 and "--- training" not in outcome.out
    assert "experiment.training.compile needs a C++ compiler, and there is no nonesuch++" in outcome.err
    outcome = smoke("experiment.training.compile=graphs")
    assert outcome.status == 1 and outcome.err.count("\n") == 1 and "--- training" not in outcome.out
    assert "experiment.training.compile=graphs records CUDA graphs, and training is on cpu" in outcome.err
    outcome = smoke("experiment.training.compile=maybe")
    assert (
        outcome.status == 1
        and "experiment.training.compile is 'maybe': choose one of auto, true, false, graphs" in outcome.err
    )
