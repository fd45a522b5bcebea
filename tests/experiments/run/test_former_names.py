"""Names of neighbouring programs: each leads to a setting that is there."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.run import former_names
from experiments.run.composition import composed, leaves
from experiments.run.folder import CONFIGS
from tests.conftest import Main

ENTRIES = [(source, *entry) for source, names in former_names.SOURCES.items() for entry in names.items()]
PAGE = Path(__file__).parents[3] / "docs" / "coming-from.md"
MISSING = object()


def test_every_name_leads_to_what_is_there() -> None:
    """Catches a hint to a key or choice that was renamed: it would lead from one error to the next."""
    configs = {needs: composed([*needs]) for needs in {today.needs for _, _, today in ENTRIES}}
    for _, name, today in ENTRIES:
        key, _, choice = today.name.partition("=")
        there = (CONFIGS / key).is_dir() and (not choice or (CONFIGS / key / f"{choice}.yaml").is_file())
        there = there or OmegaConf.select(configs[today.needs], key, default=MISSING) is not MISSING
        assert there or key == "hydra.run.dir", f"{name}: {today.name}"


def test_no_foreign_name_is_one_of_ours() -> None:
    """Catches a hint away from a setting that is there."""
    known = {key for key, _ in leaves(OmegaConf.to_container(composed([])))}
    for _, name, _ in ENTRIES:
        key, _, choice = name.partition("=")
        assert key not in known and not (CONFIGS / key / f"{choice}.yaml").is_file(), name
        assert choice or not (CONFIGS / key).is_dir(), name


@pytest.mark.parametrize(
    ("word", "today"),
    [
        ("use_diffusion_forcing=true", "algorithm=df_lm"),
        ("algorithm.diffusion.sampling_timesteps=8", "algorithm.decoder.sampling_timesteps"),
        ("ddim_sampling_eta=0", "algorithm.decoder.ddim_eta"),
        ("confidence_threshold=0.9", "algorithm.decoder.threshold"),
        ("scheduling_matrix=pyramid", "algorithm.decoder.schedule"),
        ("algorithm=diffusion", "algorithm=df_lm"),
        ("debug=True", "debug=smoke"),
        ("cluster=mit_vision", "launcher=submitit_slurm"),
        ("+max_iters=100", "experiment.training.max_steps"),
        ("trainer.max_epochs=3", "experiment.training.max_steps"),
        ("--learning_rate=1e-3", "algorithm.optimizer.lr"),
    ],
)
def test_a_foreign_name_leads_to_todays(word: str, today: str, main: Main) -> None:
    """Catches a name of a neighbour that gets a near miss by its letters, or no hint."""
    outcome = main(word)
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert f"did you mean '{today}'?" in outcome.err


def test_a_setting_written_as_a_flag_is_told_so(main: Main) -> None:
    """Catches argparse's usage in the place of a sentence; Hydra's own flags pass."""
    assert main("--seed=3").err == "error: cannot read '--seed=3': settings have no dashes, say seed=3\n"
    former_names.refuse_flags(["--cfg=job", "--help", "-m", "seed=1"])


def test_the_page_has_every_name() -> None:
    """Catches a page that was not written anew: python -m experiments.run.former_names prints its tables."""
    assert former_names.page_tables() in PAGE.read_text(encoding="utf-8")
    assert len(re.findall(r"^\| `", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) == len(ENTRIES)
