"""`experiment=decoding`: the grammar of its decoders, the judge, and whole sweeps at the size of debug=smoke."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from algorithms.common.backbone import BackboneConfig
from algorithms.common.metrics.judged import judge_nll
from algorithms.common.metrics.text import distinct_n
from algorithms.teacher_forcing.gpt import GPT, GPTConfig
from datasets.tokenizers import ByteTokenizer, CharTokenizer
from experiments import launch
from experiments.analysis import decoding_table as table
from experiments.analysis import paired
from experiments.analysis.metrics import COST, QUALITY
from experiments.analysis.trace import read_trace
from experiments.evaluation.config import DecodingConfig
from experiments.evaluation.judges.base import fingerprint
from experiments.evaluation.judges.gpt import GPTJudge
from experiments.evaluation.judges.panel import JudgePanel
from experiments.evaluation.judges.windows import windowed_sums
from experiments.evaluation.settings import expand, label
from experiments.run.build import build
from experiments.run.schema import SamplingConfig
from experiments.training import loggers
from tests.conftest import Main

CONTEXT = 8
TWO = "experiment.decoders=[{autoregressive: {use_cache: [true, false], top_k: 5}}]"
SIZES = ["experiment.sampling.length=70", "experiment.seeds=[0,1]"]  # longer than the context of 64
ONE = ["experiment.seeds=[0]"]
DRAFT = ["experiment.decoders=[two_stage]", "experiment.sampling.length=8"]


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> str:
    """The folder of a trained run, whose weights are an average."""
    folder = tmp_path_factory.mktemp("gpt")
    command = ["algorithm=gpt", "debug=smoke", "dataset=text_file", f"dataset.path={corpus}", "logger=csv"]
    command += ["experiment.tasks=[training]", "experiment.training.ema_decay=0.5", f"hydra.run.dir={folder}/run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["main.py", *command])
        assert launch.main() == 0
    return str(folder / "run")


def tiny(tokenizer: CharTokenizer | ByteTokenizer, seed: int = 0) -> GPTJudge:
    backbone = BackboneConfig(n_layer=1, n_head=2, n_embd=16, block_size=CONTEXT)
    return GPTJudge(GPT(GPTConfig(backbone), vocabulary_size=tokenizer.vocabulary_size, seed=seed), tokenizer)


def judged(judge: GPTJudge, texts: list[str], prompts: list[str]) -> float | None:
    return judge_nll(JudgePanel([judge]).read(texts, prompts))


def nats_of(nll: Any, ids: torch.Tensor, given: int, context: int, stride: int | None = None) -> float:
    """Nats of ids[given:], one text alone."""
    return float(windowed_sums(nll, [ids], [given], context, stride=stride))


def rows_of(folder: str) -> list[table.Row]:
    return table.read_rows(Path(folder) / "results.csv")


def texts_of(folder: str) -> dict[str, list[str]]:
    lines = (Path(folder) / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert len({table.identity(record) for record in records}) == len(records)
    return {table.identity(record): record["texts"] for record in records}


# --- the grammar of experiment.decoders


def test_lists_are_swept_as_a_grid() -> None:
    """Catches options that are zipped, a grid that a decoder's own option does not beat, and lost or nested ones."""
    grid = {"temperature": [0.8, 1.0]}
    found = expand(["a", {"b": {"top_k": [1, None], "flow": {"step": 0.6}}}, {"c": {"temperature": 0.5}}], grid)
    assert [label(str(name), options) for name, options in found] == [
        "a temperature=0.8",
        "a temperature=1.0",
        "b temperature=0.8 top_k=1 flow.step=0.6",
        "b temperature=0.8 top_k=null flow.step=0.6",
        "b temperature=1.0 top_k=1 flow.step=0.6",
        "b temperature=1.0 top_k=null flow.step=0.6",
        "c temperature=0.5",
    ]
    assert expand("a", None) == expand(["a"], {}) == [("a", {})] and expand(None, None) == [(None, {})]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"decoders": []}, "experiment.decoders is empty"),
        ({"decoders": ["a", {"a": {}}]}, "holds 'a' twice"),
        ({"decoders": 3}, "experiment.decoders holds 3: an entry is a decoder's name, or {name:"),
        ({"decoders": [{"a": 3}]}, "holds {'a': 3}: an entry is a decoder's name, or {name:"),
        ({"decoders": {"a": {"top_k": []}}}, "experiment.decoders: a: top_k has no values"),
        ({"grid": {"temperature": []}}, "experiment.grid: temperature has no values"),
        ({"sampling": SamplingConfig(suffix="x")}, "experiment.sampling.suffix plays no part"),
        ({"tasks": ["ab"]}, "experiment.decoders makes 1 setting, and the task ab compares two"),
        ({"tasks": ["ab"], "decoders": ["a", "b", "c"]}, "makes 3 settings, and the task ab compares two"),
        ({"seeds": []}, "experiment.seeds is empty"),
        ({"seeds": [1, 1]}, "experiment.seeds is [1, 1]: give different ones"),
    ],
)
def test_what_cannot_be_expanded_is_refused(options: dict, sentence: str) -> None:
    """Catches a sweep of nothing, of one thing twice, or of something else than was meant."""
    with pytest.raises(ValueError, match=re.escape(sentence)):
        build(DecodingConfig, options, "experiment")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("experiment.decoders=[]", "experiment.decoders is empty"),
        ("experiment.decoders=[autoregresive]", "no decoder 'autoregresive': did you mean 'autoregressive'?"),
        ("experiment.decoders=[pyramid]", "pyramid does not fit algorithm=gpt: choose from autoregressive"),
        ("experiment.decoders={autoregressive: {topk: 3}}", "topk=3: unknown config key 'algorithm.decoder.topk'"),
        ("experiment.decoders={autoregressive: {top_k: [3, 999]}}", "top_k=999: algorithm.decoder.top_k is 999, above"),
        ("experiment.grid={temperature: [1, -1]}", "temperature=-1: algorithm.decoder.temperature is -1"),
        ("experiment.presets.length=0", "experiment.presets.length is 0: it must be at least 1"),
        ("experiment.visualize.blocks=0", "experiment.visualize.blocks is 0: it must be at least 1"),
        ("experiment.visualize.fps=0", "experiment.visualize.fps is 0: it must be at least 0.1"),
        (
            "experiment.baseline=greedy",
            "experiment.baseline is 'greedy', which is no setting here: choose from autoreg",
        ),
        ("experiment.judge=3", "experiment.judge: there is no run folder or checkpoint at 3"),
        ("experiment.judge=nowhere", "experiment.judge: there is no run folder or checkpoint at nowhere"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(smoke: Main, override: str, sentence: str) -> None:
    """Catches a mistake that is found in the middle of a sweep, or after the training before it."""
    outcome = smoke("experiment=decoding", "experiment.tasks=[training,sweep]", override)
    assert outcome.status == 1 and outcome.err.startswith("error: ") and outcome.err.count("\n") == 1
    assert sentence in outcome.err and "--- training" not in outcome.out


# --- the judge


def test_one_window_is_the_gpts_own_likelihood() -> None:
    """Catches a shift by one token, a scored prompt, and a mean over tokens for one over characters."""
    judge = tiny(CharTokenizer("abcd"))
    ids = torch.tensor([judge.tokenizer.encode("abadcabd").tolist()])
    nll = judge.algorithm.nll(ids, torch.Generator())[0].detach()  # (7,)
    assert judged(judge, ["dcabd"], ["aba"]) == pytest.approx(float(nll[2:].mean()))
    assert judged(judge, ["badcabd"], [""]) == pytest.approx(float(nll.mean()))  # "a" is the start token
    both = judged(judge, ["dcabd", "badcabd"], ["aba", ""])
    assert both == pytest.approx(float(nll[2:].sum() + nll.sum()) / 12)


def test_a_prompt_beyond_the_context_is_cut_to_its_end() -> None:
    """Catches a long prompt that is scored, or whose beginning is kept."""
    judge = tiny(CharTokenizer("abcd"))
    text, prompt = ["bd"], "abcdabcdab"
    assert judged(judge, text, ["dd" + prompt]) == judged(judge, text, [prompt[-CONTEXT:]])


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
@pytest.mark.parametrize("given", [1, 5, 8])
@pytest.mark.parametrize("length", [8, 9, 10, 17, 40])
def test_every_token_is_scored_once_whatever_the_stride(length: int, given: int, stride: int) -> None:
    """Catches tokens that are skipped or counted twice where windows meet: with nats that depend on the last token
    alone, no stride changes the sum."""
    ids = torch.randint(0, 5, (length,), generator=torch.Generator().manual_seed(length))
    table_of_nats = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    whole = table_of_nats[ids[:-1], ids[1:]][given - 1 :].double().sum()
    found = nats_of(lambda x: table_of_nats[x[:, :-1], x[:, 1:]], ids, given, CONTEXT, stride)
    assert found == pytest.approx(float(whole))


@torch.no_grad()
def test_windows_give_each_token_its_context() -> None:
    """Catches windows cut short: at stride 1 every token has the whole context, by default at least half of it."""
    judge = tiny(CharTokenizer("abcd"))
    model, generator = judge.algorithm, torch.Generator()
    ids = torch.randint(0, 4, (30,), generator=torch.Generator().manual_seed(1))

    def nll(x: torch.Tensor) -> torch.Tensor:
        return model.nll(x, generator)

    slow = sum(float(nll(ids[None, max(0, i - CONTEXT) : i + 1])[0, -1]) for i in range(2, 30))
    assert nats_of(nll, ids, 2, CONTEXT, stride=1) == pytest.approx(slow, rel=1e-5)
    seen: list[int] = []

    def tokens_before(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.size(1))
        return torch.arange(1, x.size(1)).expand(x.size(0), -1).float()

    # 8 tokens of the first window have 1..8 before them; the windows after it begin at 4, 8, ..., 20 and 21.
    expected = sum(range(2, 9)) + 4 * sum(range(5, 9)) + sum(range(5, 9)) + 8
    assert nats_of(tokens_before, ids, 2, CONTEXT) == expected and set(seen) == {CONTEXT + 1}


def test_unknown_characters_are_named() -> None:
    """Catches a judge of other characters, and one whose figure is blank or made up for a text it cannot read."""
    judge = tiny(CharTokenizer("abcd"))
    judge.check_writer(CharTokenizer("bad"))
    with pytest.raises(ValueError, match=r"experiment\.judge has never seen 'x', 'y', which the model can write"):
        judge.check_writer(CharTokenizer("axby"))
    with pytest.raises(ValueError, match="the model may write any"):
        judge.check_writer(ByteTokenizer())
    with pytest.raises(ValueError, match=r"experiment\.judge cannot read a text: the vocabulary .* has no '_'"):
        judged(judge, ["ab_"], [""])
    assert judged(judge, [""], ["ab"]) is None
    reader = tiny(ByteTokenizer())
    reader.check_writer(CharTokenizer("Σ"))
    per_byte = judged(reader, ["aa"], ["a"])
    per_character = judged(reader, ["ΣΣ"], ["a"])
    assert per_byte is not None and per_character is not None and per_character > 1.5 * per_byte


def test_a_fingerprint_follows_the_weights() -> None:
    """Catches rows of other weights that count as done."""
    prints = [fingerprint(tiny(CharTokenizer("abcd"), seed).algorithm) for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


# --- whole sweeps


def test_a_sweep_leaves_everything_behind(gpt: str, main: Main) -> None:
    """Catches a missing file or row, settings with other sampling seeds, and figures of other texts."""
    command = [f"load={gpt}", f"experiment.judge={gpt}", "hydra.run.dir=sweep", "experiment=decoding"]
    outcome = main(*command, TWO, *SIZES)
    assert (outcome.status, outcome.err) == (0, "")
    rows, texts = rows_of("sweep"), texts_of("sweep")
    assert json.loads(Path("sweep/results.json").read_text(encoding="utf-8")) == rows
    cached, plain = (f"autoregressive use_cache={flag} top_k=5" for flag in ("true", "false"))
    order = [(row["setting"], row["seed"]) for row in rows]
    real, zero, one = [(table.HELD_OUT, 0), (table.HELD_OUT, 1)], [(cached, 0), (plain, 0)], [(cached, 1), (plain, 1)]
    assert order == real + zero + one
    at = {key: texts[table.identity(row)] for key, row in zip(order, rows, strict=True)}
    assert at[cached, 0] == at[plain, 0] and at[cached, 1] == at[plain, 1] and at[cached, 0] != at[cached, 1]
    for row in rows:
        found = texts[table.identity(row)]
        assert len(found) == row["n_samples"] == 4 and all(len(text) == row["length"] == 70 for text in found)
        mean = sum(distinct_n(text, 2) for text in found) / 4
        assert row["distinct_2"] == pytest.approx(mean)
        assert row["judge_nll"] > 0
        assert [row[name] is None for name in COST] == [row["setting"] == table.HELD_OUT] * len(COST)
    assert rows[2]["forwards"] == 70 and rows[2]["tokens_per_forward"] == 1.0
    assert rows[2]["options"] == {"use_cache": True, "top_k": 5} and rows[2]["decoder"]["temperature"] == 1.0
    written = Path("sweep/results.md").read_text(encoding="utf-8")
    assert table.markdown_table(table.aggregate(rows)) in written and table.HELD_OUT in outcome.out
    assert "4/4  autoregressive use_cache=false top_k=5, seed 1" in outcome.out and "0:00 left" in outcome.out
    assert at[cached, 0][0] in Path("sweep/samples.txt").read_text(encoding="utf-8")
    summary = json.loads(Path("sweep/summary.json").read_text(encoding="utf-8"))
    assert summary["sweep"]["rows"] == 6
    mean = summary["figures"][f"gpt/{cached}/distinct_2"]
    assert mean == pytest.approx((rows[2]["distinct_2"] + rows[4]["distinct_2"]) / 2)


def test_training_and_sweep_in_one_run_without_a_judge(smoke: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a sweep that samples from untrained weights, a prompt that is ignored, and a likelihood of 0 for none."""
    prompts, real_generate = [], GPT.generate
    monkeypatch.setattr(
        GPT, "generate", lambda *a, **k: prompts.append(a[1].ids[:, :4].tolist()) or real_generate(*a, **k)
    )
    outcome = smoke(
        "experiment=decoding",
        *("experiment.tasks=[training,sweep]", "hydra.run.dir=run", "experiment.sampling.prompt='the '"),
        *("experiment.decoders=null", "experiment.grid={temperature: [0]}", "experiment.seeds=[0]"),
    )
    assert (outcome.status, outcome.err) == (0, "")
    real, row = rows_of("run")
    best = torch.load("run/checkpoints/best.ckpt", weights_only=True)
    model = torch.nn.Module()
    model.state_dict = lambda: best["state_dict"]
    assert row["weights"] == fingerprint(model)
    assert prompts == [[CharTokenizer(best["tokenizer"]["characters"]).encode("the ").tolist()] * 2] * 2
    assert row["setting"] == "autoregressive temperature=0" and row["prompt"] == "the "
    assert row["judge"] is None and row["judge_nll"] is None and real["judge_nll"] is None
    assert "----- gpt, autoregressive temperature=0, seed 0, text 1\nthe " in Path("run/samples.txt").read_text(
        encoding="utf-8"
    )


def test_a_killed_sweep_goes_on_where_it_was(gpt: str, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a row that is lost, stands twice or is measured twice, and half a row that counts as done."""
    command = [f"load={gpt}", f"experiment.judge={gpt}", "experiment=decoding", TWO, *SIZES]
    main("hydra.run.dir=whole", *command)
    calls, limit, real = 0, 3, GPT.generate

    def generate(self, *arguments, **options):
        nonlocal calls
        if calls == limit:
            os.kill(os.getpid(), signal.SIGINT)
        calls += 1
        return real(self, *arguments, **options)

    monkeypatch.setattr(GPT, "generate", generate)
    outcome = main("hydra.run.dir=killed", *command)
    assert outcome.status == 130 and "python main.py resume=" in outcome.err
    assert len(rows_of("killed")) == 4  # two of real text, and two after the pass that is not recorded
    content = Path("killed/results.csv").read_bytes()
    whole_rows = content[: content[:-1].rfind(b"\n") + 1]
    Path("killed/results.csv").write_bytes(content[:-20])
    samples = Path("killed/samples.jsonl").read_bytes()
    Path("killed/samples.jsonl").write_bytes(samples + samples[: len(samples) // 3])
    calls, limit = 0, 99
    outcome = main("resume=killed")
    assert (outcome.status, outcome.err) == (0, "") and "3 of 6 rows are there already" in outcome.out
    assert calls == 1 + 3
    for file in ("results.csv", "results.json"):
        assert (Path("killed") / file).read_bytes().startswith(whole_rows if file.endswith("csv") else b"[")

    def quality(folder: str) -> dict[str, list[float]]:
        return {table.identity(row): [row[name] for name in (*QUALITY, "forwards")] for row in rows_of(folder)}

    assert quality("killed") == quality("whole") and texts_of("killed") == texts_of("whole")
    assert len(rows_of("killed")) == len(rows_of("whole")) == 6
    assert Path("killed/samples.txt").read_text(encoding="utf-8") == Path("whole/samples.txt").read_text(
        encoding="utf-8"
    )
    calls = 0
    assert main("resume=killed", "experiment.seeds=[0,1,2]").status == 0
    assert calls == 1 + 2 and len(rows_of("killed")) == 9
    calls = 0
    assert main("resume=killed", "experiment.seeds=[0,1,2]").status == 0
    assert calls == 0 and len(rows_of("killed")) == 9


def test_a_sweep_goes_on_with_its_own_data(gpt: str, main: Main, corpus: Path) -> None:
    """Catches rows of two corpora in one table, and a sweep on other data than the model's that cannot go on."""
    Path("other.txt").write_text(corpus.read_text(encoding="utf-8")[::-1], encoding="utf-8")
    sizes = ["experiment.sampling.length=8", "experiment.sampling.n_samples=1", *ONE]
    outcome = main("hydra.run.dir=run", f"load={gpt}", "experiment=decoding", "dataset.path=other.txt", *sizes)
    assert outcome.status == 0 and "likelihoods here are of the latter" in outcome.out
    assert main("resume=run").status == 0
    outcome = main("resume=run", f"dataset.path={corpus}")
    assert outcome.status == 1 and f"was begun with other data than {corpus}: resume= continues" in outcome.err


def test_a_folder_with_other_results_is_left_alone(gpt: str, main: Main) -> None:
    """Catches the table of another program that is overwritten."""
    main("hydra.run.dir=run", f"load={gpt}", "experiment=decoding", *ONE, *SIZES)
    Path("run/results.csv").write_text("job,overrides\n0,seed=0\n", encoding="utf-8")
    outcome = main("resume=run")
    assert outcome.status == 1 and "other columns than those of a decoding sweep" in outcome.err
    assert (
        outcome.err.count("\n") == 1
        and Path("run/results.csv").read_text(encoding="utf-8") == "job,overrides\n0,seed=0\n"
    )


def test_matrices_of_diffusion_forcing_and_a_judge_that_is_none(smoke: Main, main: Main) -> None:
    """Catches a decoder's file composed without its parents, and a judge whose likelihood is no GPT's."""
    smoke("algorithm=df_lm", "hydra.run.dir=run", "experiment.tasks=[training]")
    decoders = "experiment.decoders=[full_sequence, {trapezoid: {chunk_size: [8]}}]"
    command = ["load=run", "experiment=decoding", decoders, "experiment.grid={sampling_timesteps: 2}"]
    command += ["experiment.seeds=[0]", "experiment.sampling.length=16"]
    outcome = main(*command, "experiment.judge=run")
    assert outcome.status == 1 and "experiment.judge=run holds algorithm=df_lm: a judge is a GPT" in outcome.err
    assert main(*command, "hydra.run.dir=sweep").status == 0
    _, full, trapezoid = rows_of("sweep")
    assert (full["decoder"]["schedule"], trapezoid["decoder"]["schedule"]) == ("full_sequence", "trapezoid")
    assert full["decoder"]["sampling_timesteps"] == trapezoid["decoder"]["sampling_timesteps"] == 2
    assert full["tokens_per_forward"] > trapezoid["tokens_per_forward"]


def test_a_judge_of_other_characters_is_refused(gpt: str, main: Main) -> None:
    """Catches a sweep that fails at its first row, or scores what the judge cannot read."""
    checkpoint = torch.load(f"{gpt}/checkpoints/best.ckpt", weights_only=True)
    known = checkpoint["tokenizer"]["characters"]
    checkpoint["tokenizer"]["characters"] = "".join(sorted(known.replace("a", "Σ").replace("d", "Δ")))
    torch.save(checkpoint, "judge.ckpt")
    outcome = main(f"load={gpt}", "experiment=decoding", "experiment.judge=judge.ckpt")
    assert outcome.status == 1 and "experiment.judge has never seen 'a', 'd', which the model can write" in outcome.err
    assert outcome.err.count("\n") == 1 and "--- sweep" not in outcome.out


def test_a_short_validation_split_gives_no_row_of_real_text(smoke: Main) -> None:
    """Catches a sweep that fails, or compares with shorter texts, where real text is scarce."""
    Path("short.txt").write_text("to be or not to be " * 120, encoding="utf-8")
    sizes = ["dataset.path=short.txt", "experiment.sampling.length=150", "experiment.seeds=[0]"]
    outcome = smoke("experiment=decoding", "experiment.tasks=[training,sweep]", "hydra.run.dir=run", *sizes)
    assert outcome.status == 0 and "no row of real text" in outcome.out
    assert [row["setting"] for row in rows_of("run")] == ["autoregressive"]


# --- two settings, and the presets


def test_ab_compares_two_settings_seed_by_seed(gpt: str, main: Main) -> None:
    """Catches a loop of its own with other rows, settings that are swapped, and rows measured again by either task."""
    command = [f"load={gpt}", "experiment=decoding", "experiment.sampling.length=24", f"experiment.judge={gpt}"]
    command += ["experiment.decoders=[{autoregressive: {temperature: [0.5, 1.5]}}]"]
    outcome = main("hydra.run.dir=run", "experiment.tasks=[ab]", *command)
    assert (outcome.status, outcome.err) == (0, "")
    rows = rows_of("run")
    assert len(rows) == 9 and len(texts_of("run")) == 9
    compared = json.loads(Path("run/ab.json").read_text(encoding="utf-8"))
    cold, hot = ([row for row in rows if row["options"] == {"temperature": heat}] for heat in (0.5, 1.5))
    real = [row for row in rows if row["setting"] == table.HELD_OUT]
    assert compared.pop("seeds") == [0, 1, 2] and compared.pop("weights") == rows[-1]["weights"]
    assert compared == json.loads(json.dumps(paired.compare(cold, hot, real)))
    assert compared["claims"]["forwards"] == paired.NO_DIFFERENCE
    assert compared["figures"]["judge_nll"]["difference"]["low"] > 0  # hotter is less likely
    page = Path("run/ab.md").read_text(encoding="utf-8")
    assert "A: autoregressive temperature=0.5  \nB: autoregressive temperature=1.5" in page
    assert paired.markdown(compared) in page and paired.markdown(compared) in outcome.out
    again = main("resume=run", "experiment.tasks=[sweep]")
    assert again.status == 0 and "9 of 9 rows are there already" in again.out and rows_of("run") == rows


def test_too_few_seeds_leave_the_intervals_blank(gpt: str, main: Main) -> None:
    """Catches a comparison that fails without a spread, or claims something."""
    command = [f"load={gpt}", "experiment=decoding", "experiment.tasks=[ab]", "experiment.sampling.length=8"]
    outcome = main(
        *command, "experiment.decoders=[autoregressive, {autoregressive: {top_k: 1}}]", *ONE, "hydra.run.dir=r"
    )
    assert (outcome.status, outcome.err) == (0, "")
    compared = json.loads(Path("r/ab.json").read_text(encoding="utf-8"))
    assert {figure["difference"]["low"] for figure in compared["figures"].values() if figure["difference"]} == {None}
    assert set(compared["claims"].values()) == {paired.TOO_FEW}


def test_the_presets_that_fit_are_measured(smoke: Main, main: Main, corpus: Path) -> None:
    """Catches a preset with other settings, a prompt that is not the split's, and one left out without a word."""
    assert smoke("algorithm=masked_diffusion", "hydra.run.dir=run", "experiment.tasks=[training]").status == 0
    command = ["load=run", "experiment=decoding", "experiment.tasks=[presets]", *ONE]
    outcome = main(*command, "experiment.presets.length=40", "hydra.run.dir=presets")
    assert (outcome.status, outcome.err) == (0, "")
    real, row = rows_of("presets")
    assert (real["setting"], row["setting"]) == (table.HELD_OUT, "baseline_fast")
    text = corpus.read_text(encoding="utf-8")
    assert row["length"] == 40 and row["prompt"] == text[int(0.9 * len(text)) :][:16]
    assert row["prompt"] in Path("presets/samples.txt").read_text(encoding="utf-8")
    decoder = row["decoder"]
    assert (decoder["temperature"], decoder["threshold"], decoder["top_k"]) == (0.7, 0.75, 3)
    for name in ("flow_quality", "flow_balanced"):
        assert f"{name} is left out: algorithm.decoder.name is 'flow_threshold', which does not fit" in outcome.out
    kept = json.loads(Path("presets/summary.json").read_text(encoding="utf-8"))["presets"]
    assert kept["settings"] == ["baseline_fast"] and list(kept["left_out"]) == ["flow_quality", "flow_balanced"]
    more = main("resume=presets", "experiment.tasks=[sweep,presets]", "experiment.sampling.prompt='the '", *DRAFT)
    assert (more.status, more.err) == (0, "")
    assert [(row["setting"], row["prompt"], row["length"]) for row in rows_of("presets")[2:]] == [
        *[(table.HELD_OUT, "the ", 8), ("two_stage", "the ", 8)],
        *[(table.HELD_OUT, "the ", 40), ("baseline_fast", "the ", 40)],
    ]
    page = Path("presets/results.md").read_text(encoding="utf-8")
    assert "× 8 tokens" in page and "× 40 tokens" in page and "| front" in page


def test_a_baseline_is_what_others_are_held_against(gpt: str, main: Main) -> None:
    """Catches an analysis that is not written, or holds the settings against another one."""
    command = [f"load={gpt}", "experiment=decoding", "experiment.sampling.length=16", "hydra.run.dir=run"]
    command += ["experiment.decoders=[autoregressive, {autoregressive: {top_k: [1, 3]}}]"]
    outcome = main(*command, "experiment.baseline='autoregressive top_k=3'")
    assert (outcome.status, outcome.err) == (0, "")
    page = Path("run/analysis/differences.md").read_text(encoding="utf-8")
    assert page.startswith("# Differences from autoregressive top_k=3\n") and "| autoregressive top_k=1 |" in page
    assert Path("run/analysis/speed_quality.png").read_bytes().startswith(b"\x89PNG")


def test_visualize_records_every_setting(gpt: str, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a trace of other texts than the sweep would sample, a wrong length, and tables that W&B never gets."""
    tables: dict[str, loggers.Table] = {}
    monkeypatch.setattr(loggers.WandbLogger, "log_table", lambda self, key, columns, data: tables.update({key: data}))
    outcome = main(
        *(f"load={gpt}", "experiment=decoding", "experiment.tasks=[sweep,visualize]", "hydra.run.dir=run", *ONE),
        *("experiment.decoders=[autoregressive, {autoregressive: {top_k: 1}}]", "experiment.visualize.blocks=1"),
        *("experiment.sampling.prompt='the '", "experiment.sampling.length=64", "logger=wandb"),
        "logger.wandb.mode=offline",
    )
    assert (outcome.status, outcome.err) == (0, "")
    traces = [read_trace(path) for path in sorted(Path("run/traces").iterdir())]
    assert [trace.decoder for trace in traces] == ["autoregressive", "autoregressive top_k=1"]
    at = {key: texts[0] for key, texts in texts_of("run").items()}
    for row, trace in zip(rows_of("run")[1:], traces, strict=True):
        assert "".join(trace.tokens[-1]) == "the " + at[table.identity(row)]
    assert Path("run/animation.gif").read_bytes().startswith(b"GIF8")
    assert "autoregressive top_k=1" in Path("run/animation.html").read_text(encoding="utf-8")
    assert len(tables["results"]) == 3 and len(tables["samples"]) == 3 * 4
    assert tables["traces/gpt autoregressive"][-1] == [64, 64, "the " + at[table.identity(rows_of("run")[1])]]


def test_presets_of_another_algorithm_are_refused(gpt: str, main: Main) -> None:
    """Catches a task that measures nothing and says nothing."""
    outcome = main(f"load={gpt}", "experiment=decoding", "experiment.tasks=[presets]")
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert "no preset of the task presets fits algorithm=gpt" in outcome.err
