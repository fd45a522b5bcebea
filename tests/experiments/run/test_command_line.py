"""What `load=` and `resume=` turn a command line into, without running anything."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments.run import command_line
from experiments.run.folder import CONFIGS, link_latest
from experiments.run.overrides import key_of, quote
from experiments.run.resume import begun_with
from experiments.training.checkpoints import describe


@pytest.mark.parametrize(
    "value",
    [
        *("plain", "To be, or not", "it's", "a\\", "a\\'b", "'", "[x]", "k=v", "${x}", "", "null", "3"),
        *(3, 2.5e-7, True, None, [1, "a,b", None], {"a": "x y"}),
    ],
)
def test_quoted_values_come_back_through_hydras_parser(value: object) -> None:
    """Catches a stored path or prompt that changes on its way through the command line."""
    parsed = OverridesParser.create().parse_override(f"key={quote(value)}").value()
    parsed = parsed.text if hasattr(parsed, "text") else parsed
    if isinstance(parsed, list):
        parsed = [item.text if hasattr(item, "text") else item for item in parsed]
    if isinstance(parsed, dict):
        parsed = {str(k): v.text if hasattr(v, "text") else v for k, v in parsed.items()}
    assert parsed == value


@pytest.mark.parametrize("override", ["a.b=1", "+a.b=1", "++a.b=x=y", "~a.b", "a.b@c=1"])
def test_key_of_an_override(override: str) -> None:
    """Catches `+key=` or `key=a=b` that is not recognised as given by the user."""
    assert key_of(override) == "a.b"


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes the folder of a run as Hydra and the training task leave it."""
    monkeypatch.chdir(tmp_path)

    def make(folder: str, *overrides: str, checkpoint: bool = True) -> Path:
        path = Path(folder)
        (path / ".hydra").mkdir(parents=True)
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
        choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
        plain = {k: v for k, v in OmegaConf.to_container(cfg).items() if k != "hydra"}
        stored = {"hydra": {"runtime": {"choices": choices}}}
        (path / ".hydra" / "config.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
        (path / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(stored), encoding="utf-8")
        (path / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)), encoding="utf-8")
        if checkpoint:
            (path / "checkpoints").mkdir()
            (path / "checkpoints" / "last.ckpt").write_bytes(b"")
        return path

    return make


def expand(argv: list[str], say=print) -> list[str]:
    return command_line.expand(argv, describe, say)


def set_to(key: str, folder: str) -> str:
    return f"{key}={quote(str(Path(folder).resolve()))}"


def composed(argv: list[str]):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=[a for a in argv if not a.startswith("-") and "hydra." not in a])


def test_resume_brings_back_overrides_and_folder(make_run) -> None:
    """Catches a resumed run that gets other settings, or a new folder."""
    make_run("outputs/d/1-a", "algorithm=gpt", "seed=3", "resume=x")
    argv = expand(["resume=outputs/d/1-a", "seed=4"])
    place = "outputs/d/1-a"
    assert argv == ["algorithm=gpt", set_to("hydra.run.dir", place), set_to("resume", place), "seed=4"]


def test_resume_takes_a_checkpoint_of_the_run(make_run) -> None:
    """Catches a .ckpt whose run folder is not found."""
    make_run("outputs/d/1-a", "algorithm=gpt")
    argv = expand(["resume=outputs/d/1-a/checkpoints/last.ckpt"])
    assert set_to("hydra.run.dir", "outputs/d/1-a") in argv and "algorithm=gpt" in argv


def test_resume_auto_takes_the_newest_run_with_these_overrides(make_run) -> None:
    """Catches a run of other settings, or one without checkpoint, that is continued by mistake."""
    make_run("outputs/d/1-a", "algorithm=gpt", "seed=3")
    make_run("outputs/d/2-b", "seed=3", "algorithm=gpt")
    make_run("outputs/d/3-c", "algorithm=gpt", "seed=4")
    make_run("outputs/d/4-d", "algorithm=gpt", "seed=3", checkpoint=False)
    assert set_to("hydra.run.dir", "outputs/d/2-b") in expand(["resume=auto", "algorithm=gpt", "seed=3"])
    assert set_to("hydra.run.dir", "outputs/d/3-c") in expand(["resume=auto"])


def test_resume_auto_alone_follows_the_latest_link(make_run) -> None:
    """Catches a latest run in a folder of the user's own that is overlooked."""
    make_run("outputs/d/1-a", "algorithm=gpt")
    link_latest(make_run("elsewhere/mine", "seed=1"))
    assert set_to("hydra.run.dir", "elsewhere/mine") in expand(["resume=auto"])


def test_the_latest_run_is_one_with_weights_of_its_own(make_run) -> None:
    """Catches a link that moves between the command line and the loading, and a part of a comparison that takes it."""
    link_latest(make_run("outputs/d/1-a", "algorithm=gpt"))
    assert set_to("load", "outputs/d/1-a") in expand(["load=latest-run"])
    make_run("outputs/d/2-b", "experiment=comparison", checkpoint=False)
    link_latest(make_run("outputs/d/2-b/judges/0", "algorithm=gpt").resolve())
    assert Path("latest-run").resolve() == Path("outputs/d/1-a").resolve()


def test_resume_auto_without_a_run_starts_one(make_run) -> None:
    """Catches `resume=auto` in a job script that fails on its first submission."""
    make_run("outputs/d/1-a", "seed=9")
    said: list[str] = []
    assert expand(["resume=auto", "seed=3"], said.append) == ["seed=3"]
    assert "starting a new one" in said[0]


@pytest.mark.parametrize("place", ["here", "here/${seed}"])
def test_resume_auto_is_the_folder_that_is_given(make_run, place: str) -> None:
    """Catches the line of a preemptible job that starts anew over its own checkpoints."""
    line = ["resume=auto", f"hydra.run.dir={place}", "algorithm=gpt", "seed=3"]
    folder, said = place.replace("${seed}", "3"), []
    assert expand(line, said.append) == line[1:] and f"{folder} holds no run yet" in said[-1]
    make_run(folder, "algorithm=gpt", "seed=3", checkpoint=False)
    assert expand(line, said.append) == line[1:] and "before its first checkpoint" in said[-1]
    (Path(folder) / "checkpoints").mkdir()
    (Path(folder) / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert expand(line, said.append) == [set_to("resume", folder), *line[1:]] and "continuing" in said[-1]


def test_a_run_that_was_stopped_early_starts_again_as_it_was(make_run) -> None:
    """Catches a run without a checkpoint that can only be begun by hand, or that forgets what it was to load."""
    make_run("run", "algorithm=gpt", "load=/x.ckpt", checkpoint=False)
    assert expand(["resume=run"]) == ["algorithm=gpt", "load=/x.ckpt", set_to("hydra.run.dir", "run")]


def test_a_resumed_run_keeps_the_defaults_of_its_time(make_run) -> None:
    """Catches a newer version of the code whose defaults change a run that goes on, or that asks for keys now gone."""
    run = make_run("run", "algorithm=gpt", "seed=3")
    config = (run / ".hydra" / "config.yaml").read_text(encoding="utf-8")
    (run / ".hydra" / "config.yaml").write_text(
        config.replace("warmup_steps: 100", "warmup_steps: 50\n    gone: 2") + "gone: 1\n", encoding="utf-8"
    )
    begun = begun_with(run)  # what is gone cannot be asked for
    assert begun["algorithm.optimizer.warmup_steps"] == 50 and not [key for key in begun if key.endswith("gone")]
    assert "++algorithm.optimizer.warmup_steps=50" in expand(["resume=run"])
    assert expand(["resume=run", "algorithm.optimizer.warmup_steps=20"])[-1] == "algorithm.optimizer.warmup_steps=20"


def test_a_resumed_comparison_gets_no_method_that_is_new_to_it(make_run) -> None:
    """Catches a method of today's defaults that a comparison of former ones trains when it goes on."""
    run = make_run("run", "experiment=comparison", "experiment.methods.gpt=null")
    stored = run / ".hydra" / "config.yaml"
    config = yaml.safe_load(stored.read_text(encoding="utf-8"))
    del config["experiment"]["methods"]["block_diffusion"]
    stored.write_text(yaml.safe_dump(config), encoding="utf-8")
    methods = composed(expand(["resume=run"])).experiment.methods
    assert methods.block_diffusion is None and methods.gpt is None and methods.df_lm.algorithm == "df_lm"
    asked = composed(expand(["resume=run", "experiment.methods.block_diffusion.algorithm=block_diffusion"]))
    assert asked.experiment.methods.block_diffusion.algorithm == "block_diffusion"


def test_a_run_from_before_muon_goes_on_with_adamw(make_run) -> None:
    """Catches moments of one optimiser that are given to another, as the configuration did not say then which it is."""
    run = make_run("run", "algorithm=gpt", "algorithm/optimizer=adamw", "algorithm.optimizer.lr=2e-3")
    stored = run / ".hydra" / "config.yaml"
    config = yaml.safe_load(stored.read_text(encoding="utf-8"))
    del config["algorithm"]["optimizer"]["name"], config["algorithm"]["optimizer"]["momentum"]
    stored.write_text(yaml.safe_dump(config), encoding="utf-8")
    (run / ".hydra" / "overrides.yaml").write_text("[algorithm=gpt]", encoding="utf-8")
    assert begun_with(run)["algorithm.optimizer.name"] == "adamw"
    optimizer = composed(expand(["resume=run"])).algorithm.optimizer
    assert (optimizer.name, optimizer.lr) == ("adamw", 2e-3)


def test_a_sweep_goes_on_with_its_own_command_line(make_run) -> None:
    """Catches a sweep that can only be begun anew, or whose jobs are changed on the way."""
    make_run("multirun/a/0", "seed=0")
    overrides = {"task": ["algorithm=gpt", "seed=0,1"], "hydra": ["hydra.sweep.dir=multirun/a", "hydra.mode=MULTIRUN"]}
    stored = {"hydra": {"overrides": overrides, "runtime": {"choices": {"hydra/sweeper": "basic"}}}}
    Path("multirun/a/multirun.yaml").write_text(yaml.safe_dump(stored), encoding="utf-8")
    place = set_to("hydra.sweep.dir", "multirun/a")
    assert expand(["resume=multirun/a"]) == ["--multirun", "algorithm=gpt", "seed=0,1", place]
    with pytest.raises(ValueError, match="only launcher= can be changed"):
        expand(["resume=multirun/a", "seed=2"])


def test_load_rebuilds_algorithm_and_dataset_and_nothing_else(make_run) -> None:
    """Catches sizes set by a debug or experiment file, and not on the command line, that are lost on load."""
    make_run("run", "algorithm=gpt", "debug=smoke", "dataset=text8", "algorithm.optimizer.lr=3e-4", "seed=5")
    cfg = composed(expand(["load=run", "experiment.tasks=[sampling]"]))
    assert (cfg.algorithm.name, cfg.algorithm.backbone.n_embd, cfg.dataset.name) == ("gpt", 32, "text8")
    assert cfg.algorithm.optimizer.lr == 3e-4
    assert cfg.seed == 0 and cfg.experiment.training.max_steps > 2


def test_paths_of_the_data_are_those_of_the_folder_they_were_said_in(make_run, monkeypatch) -> None:
    """Catches a relative path that leads to another file on resume=, on load=, or when it is stored."""
    data = ["dataset=text_file", "dataset.path=a/mine.txt", "dataset.tokenizer_path='~/t.json'"]
    folder = make_run("run", "algorithm=gpt", *data, "dataset.tokenizer=bpe")  # as older runs stored them
    stored = yaml.safe_load((folder / ".hydra" / "hydra.yaml").read_text(encoding="utf-8"))
    stored["hydra"]["runtime"]["cwd"] = "/began/here"
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(stored), encoding="utf-8")
    tokenizer = str(Path("~/t.json").expanduser())
    for argv in (["resume=run"], ["load=run"]):
        dataset = composed(expand(argv)).dataset
        assert (dataset.path, dataset.tokenizer_path) == ("/began/here/a/mine.txt", tokenizer)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    for argv in (["resume=../run", *data], ["load=../run", *data], data):
        assert composed(expand(argv)).dataset.path == str(Path.cwd() / "a" / "mine.txt")


def test_paths_that_hydra_has_yet_to_fill_in(make_run) -> None:
    """Catches an interpolation that is taken for a folder, and the paths of a sweep for one path."""
    argv = ["dataset=text_file", "dataset.path=${oc.env:HOME}/mine.txt", "+dataset.path=null"]
    assert [key_of(a) for a in expand(argv)] == ["dataset", "dataset.path", "dataset.path"]
    assert composed(expand(argv[:2])).dataset.path == str(Path.home() / "mine.txt")
    nested = "experiment.judges.overrides=['dataset.path=mine.txt','seed=3']"
    paths = [f"dataset.path={quote(str(Path.cwd() / 'mine.txt'))}", "seed=3"]
    assert expand([nested]) == [f"experiment.judges.overrides={quote(paths)}"]
    assert expand(["-m", "dataset.path=a.txt,b.txt"]) == ["-m", "dataset.path=a.txt,b.txt"]


def test_load_yields_to_the_command_line(make_run) -> None:
    """Catches stored values that override what the user typed."""
    make_run("run", "algorithm=gpt", "algorithm.decoder.top_k=3", "algorithm/backbone=baby", "dataset=text8")
    argv = expand(["load=run", "algorithm/backbone=gpt2", "algorithm.decoder.top_k=9", "dataset=tiny_shakespeare"])
    cfg = composed(argv)
    assert cfg.algorithm.backbone.n_layer == 12
    assert cfg.algorithm.decoder.top_k == 9
    assert cfg.dataset.name == "tiny_shakespeare"
    argv = expand(["load=run", "algorithm=df_lm"])
    assert composed(argv).algorithm.name == "df_lm"
    assert composed(argv).algorithm.backbone.n_layer == 3  # nothing of the stored algorithm is kept


def test_load_expanded_twice_is_the_same_run(make_run) -> None:
    """Catches a process of a DDP run or sweep, which expands the command line again, that gets another config."""
    make_run("run", "algorithm=gpt", "debug=smoke", "dataset=text8")
    once = expand(["load=run", "seed=2"])
    assert composed(expand(once)) == composed(once)


def test_flags_may_stand_among_overrides(make_run) -> None:
    """Catches an expansion that argparse cannot read."""
    make_run("run", "algorithm=gpt")
    argv = expand(["load=run", "--cfg", "job", "seed=2"])
    assert argv[:2] == ["--cfg", "job"] and all("=" in a for a in argv[2:])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["load=run", "resume=run"], "exclude each other"),
        (["resume="], "resume is empty"),
        (["hydra.run.dir=''"], "hydra.run.dir is empty"),
        (["resume=nowhere"], "no run folder or checkpoint at nowhere"),
        (["load=nowhere"], "no run folder or checkpoint at nowhere"),
        (["resume=done"], "done is finished, and trained nothing to go on from"),
        (["resume=auto", "hydra.run.dir=done"], "done already holds a run: choose another hydra.run.dir$"),
        (["resume=auto", "hydra.run.dir=."], r"\. holds other runs, or parts of one"),
        (["resume=run", "hydra.run.dir=other"], "goes on in its own folder: leave out hydra.run.dir=other"),
        (["--multirun", "resume=auto"], "a sweep goes on with resume=multirun/DATE/TIME"),
        (["load=unfinished"], "unfinished holds no checkpoints/best.ckpt or last.ckpt"),
        (["resume=loose.ckpt"], "does not lie in the folder of a run"),
        (["--multirun", "resume=run"], "for a job of a sweep give its folder"),
        (["hydra.run.dir=run"], "run already holds a run: choose another hydra.run.dir, or resume=run"),
        (["hydra.run.dir=${name}", "name=run"], "run already holds a run"),
        (["hydra.run.dir=unfinished"], "unfinished already holds a run"),
        (["hydra.run.dir=."], r"\. holds other runs"),
        (["--multirun", "hydra.sweep.dir=."], r"\. holds other runs"),
    ],
)
def test_impossible_requests_are_one_sentence(make_run, argv: list[str], sentence: str) -> None:
    """Catches a wrong path or combination that reaches Hydra, or overwrites another run."""
    make_run("run", "algorithm=gpt")
    make_run("unfinished", "algorithm=gpt", checkpoint=False)
    done = make_run("done", "algorithm=gpt", checkpoint=False)
    (done / "summary.json").write_text('{"status": "finished"}', encoding="utf-8")
    Path("loose.ckpt").write_bytes(b"")
    with pytest.raises((ValueError, OSError), match=sentence):
        expand(argv)


def test_a_sweep_over_load_is_left_to_its_jobs(make_run) -> None:
    """Catches a sweep over checkpoints that is expanded as if it were one path."""
    assert expand(["-m", "load=a,b"]) == ["-m", "load=a,b"]
