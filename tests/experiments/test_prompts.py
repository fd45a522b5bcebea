"""Prompts from the command line and from Python, by a small model of every method, in this process."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.masked_diffusion.decoding import TopConfidence
from experiments import load
from tests.conftest import Main

README = Path(__file__).parents[2] / "README.md"
LONG = "the king and queen of love in night " * 3  # the window holds 64 tokens
PROMPTS = ["the king", LONG, "fair foul"]
METHODS = ["df_lm", "masked_diffusion", *(pytest.param(m, marks=pytest.mark.slow) for m in ("gpt", "diffusion_flow"))]
SIZES = ["experiment.sampling.n_samples=2", "experiment.sampling.length=8"]


def samples(folder: str) -> dict[str, Any]:
    return json.loads((Path(folder) / "samples" / "samples.json").read_text("utf-8"))


@pytest.mark.parametrize("method", METHODS)
def test_prompts_of_a_file_are_continued_as_each_alone(smoke: Main, main: Main, method: str) -> None:
    """Catches prompts that are mixed up, shortened or refused for their length, settings that a method leaves out, and
    texts that depend on who else is asked for, or on whether Python or the command line asks."""
    assert smoke(f"algorithm={method}", "experiment.tasks=[training]", "hydra.run.dir=run").status == 0
    Path("prompts.txt").write_text("\n\n".join(PROMPTS), encoding="utf-8")
    settings = ["algorithm.decoder.temperature=0.8", "algorithm.decoder.top_k=5", "algorithm.decoder.top_p=0.9"]
    asked = ["load=run", "experiment.tasks=[sampling]", *SIZES, *settings]
    outcome = main(*asked, "experiment.sampling.prompt_file=prompts.txt", "hydra.run.dir=out")
    assert (outcome.status, outcome.err) == (0, "")
    found = samples("out")
    assert found["prompts"] == [prompt for prompt in PROMPTS for _ in range(2)] and found["seeds"] == [0, 1] * 3
    for prompt, text in zip(found["prompts"], found["texts"], strict=True):
        assert text.startswith(prompt) and len(text) == len(prompt) + 8
    assert "----- prompt 2, seed 1\n" in Path("out/samples/samples.txt").read_text("utf-8")
    assert "----- prompt 2, seed 0\n" in outcome.out and "seed 1" not in outcome.out

    model = load("run")
    decoder = {found["decoder"]["name"]: {"temperature": 0.8, "top_k": 5, "top_p": 0.9}}
    if method == "df_lm":
        decoder = {"autoregressive_matrix": decoder["matrix"]}
    together = model.generate(PROMPTS, length=8, decoder=decoder)
    assert together == found["texts"][::2]
    assert [model.generate(prompt, length=8, decoder=decoder) for prompt in PROMPTS] == together
    assert model.generate(PROMPTS, length=8, decoder=decoder, seed=1) != together


def test_a_list_of_prompts_and_a_text_to_stop_at(smoke: Main, main: Main) -> None:
    """Catches a list that is refused, temperature 0 that depends on the seed, and text behind the stop, or the stop
    itself, that is shown."""
    words = "['the king','',night]"
    outcome = smoke(
        *("hydra.run.dir=run", "experiment.tasks=[training,sampling]", *SIZES, f"experiment.sampling.prompt={words}"),
        *("algorithm.decoder.temperature=0", "experiment.sampling.stop=' '", "experiment.sampling.length=60"),
        *("algorithm.optimizer.lr=0.02", "experiment.training.max_steps=12"),
    )
    assert outcome.status == 0, outcome.err
    found = samples("run")
    assert found["prompt"] == ["the king", "", "night"] and found["stop"] == " "
    assert found["texts"][::2] == found["texts"][1::2]
    assert True in found["ended"]
    for prompt, text, ended in zip(found["prompts"], found["texts"], found["ended"], strict=True):
        assert text.startswith(prompt) and " " not in text.removeprefix(prompt)
        assert ended or len(text) == len(prompt) + 60
    alone = main("load=run", "experiment=decoding", "experiment.tasks=[sampling]", "hydra.run.dir=more", *SIZES)
    assert alone.status == 0 and len(samples("more")["texts"]) == 2, alone.err
    for task, key in (("sweep", "prompt=[a,b]"), ("visualize", "prompt_file=x")):
        refused = main("load=run", "experiment=decoding", f"experiment.tasks=[{task}]", f"experiment.sampling.{key}")
        assert refused.status == 1 and refused.err.count("\n") == 1
        assert f"experiment.sampling.{key.partition('=')[0]} gives several texts" in refused.err


def test_a_model_in_python(smoke: Main, main: Main) -> None:
    """Catches a model that writes, fills in or scores otherwise than the command line, and errors of many lines."""
    run = ["algorithm=masked_diffusion", "dataset.tokenizer=byte", "experiment.tasks=[training,sampling]"]
    run += ["hydra.run.dir=run"]
    assert smoke(*run, "experiment.sampling.prompt=king", "experiment.sampling.suffix=queen", *SIZES).status == 0
    model = load("run")
    assert model.infill("king{8}queen") == samples("run")["texts"][0]
    filled = model.infill("{2} the {3}king{1}", decoder=TopConfidence(tokens_per_step=2), seed=3)
    assert len(filled) == 2 + 5 + 3 + 4 + 1 and filled[2:7] == " the " and filled[10:14] == "king"
    exec(
        re.search(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)[1], {}
    )  # the example runs as it stands

    short, long = model.score(["the king", LONG])
    assert (short.tokens, short.characters, short.kind) == (8, 8, "bound") and long.tokens == len(LONG) > 64
    assert short == model.score("the king") and 0 < short.nats < long.nats
    for call, words in (
        (lambda: model.infill("king"), r"template has no open place: write \{8\}"),
        (lambda: model.generate("a", decoder="treshold"), "there is no decoder 'treshold': did you mean 'threshold'"),
        (lambda: model.generate("a", decoder={"threshold": {"top_k": [1, 2]}}), "decoder makes 2 settings"),
        (lambda: model.generate("a", length=0), "length"),
        (lambda: load("nowhere"), "there is no run folder or checkpoint at nowhere"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            call()


def test_scores_are_the_likelihood_of_the_corpus(smoke: Main) -> None:
    """Catches a score that leaves out tokens, or gives them a context that they have not in training: of the first
    windows of a text it is what the model says of them."""
    assert smoke("experiment.tasks=[training]", "hydra.run.dir=run").status == 0
    model = load("run")
    ids = torch.tensor([[model.tokenizer.start_id, *model.tokenizer.encode(LONG).tolist()]])
    with torch.no_grad():
        parts = [model.algorithm.nll(ids[:, i : i + 65], torch.Generator()).sum() for i in (0, 64)]
    assert model.score(LONG).nats == pytest.approx(float(sum(parts)), rel=1e-5) and len(LONG) == 108
    for call, words in (
        (lambda: model.infill("king{8}queen"), "suffix cannot be seen by the decoder autoregressive"),
        (lambda: model.generate(["a", "Ä"]), r"prompts\[1\]: the vocabulary of"),
        (lambda: model.score(["Ä"]), r"texts\[0\]: the vocabulary of"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
