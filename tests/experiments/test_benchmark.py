"""The benchmark's tasks run and leave their figures; how fast anything is gets measured by them, not by tests."""

import json
from pathlib import Path

import pytest

from tests.conftest import Main


@pytest.mark.parametrize("method", ["gpt", "masked_diffusion", "diffusion_flow"])
def test_decoding_speed_compares_equal_texts(smoke: Main, method: str) -> None:
    """Catches a comparison of a batch with other texts, and a backbone whose time is not seen."""
    sizes = ["experiment.rounds=1", "experiment.sampling.n_samples=3", "experiment.sampling.length=8"]
    outcome = smoke(
        f"algorithm={method}", "experiment=benchmark", "experiment.tasks=[decoding_speed]", *sizes, "hydra.run.dir=run"
    )
    assert outcome.status == 0, outcome.err
    figures = json.loads(Path("run/summary.json").read_text(encoding="utf-8"))["figures"]
    assert figures["benchmark/batched_tokens_per_second"] > 0 and figures["benchmark/single_tokens_per_second"] > 0
    assert figures["benchmark/batched_overhead"] > 0 and figures["benchmark/single_overhead"] > 0
    assert "decoding_speed_ratio" in outcome.out
