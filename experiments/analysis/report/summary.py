"""What a comparison found, in sentences that its numbers bear out, and what was run.

Likelihoods are put in an order only within one kind; a bound is never called better or worse than an exact value.
"""

import math
from collections.abc import Sequence
from typing import Any

from experiments.analysis.likelihood import BOUND, EXACT
from experiments.analysis.metrics import BY_KEY
from experiments.analysis.report import naming, tables, versus
from experiments.analysis.report.comparison import REAL, Comparison, Likelihood, Method, Setting
from experiments.analysis.report.document import Facts, Points

NUMBERS = ("One", "Two", "Three", "Four", "Five", "Six")
Estimates = list[tuple[str, float]]


def purpose(comparison: Comparison) -> str:
    """The first sentence: what was compared, and what was kept equal."""
    labels = [method.label for method in comparison.methods]
    count = NUMBERS[len(labels) - 1] if len(labels) <= len(NUMBERS) else str(len(labels))
    what = f"{count} way{'s' * (len(labels) > 1)} to train a language model"
    said = f"{what}, {naming.listed(labels)}, measured on the same windows of text, prompts and sampling seeds."
    counts = sorted({len(method.trainings) for method in comparison.methods})
    if comparison.several:
        said += f" Each was trained with {' to '.join(map(str, dict.fromkeys([counts[0], counts[-1]])))} seeds, and "
        said += "values are means over these trainings."
    budgets = _budgets(comparison)
    if len(budgets) == 1 and None not in budgets:
        said += f" Each learned for {_steps(*budgets)} of training."
    elif budgets != {None: labels}:
        said += f" Their training differs in length: {_spoken(budgets)}."
    given = [method.label for method in comparison.methods if not method.trained_here]
    return said + (f" Trained elsewhere: {naming.listed(given)}." if given else "")


def methods(comparison: Comparison) -> Facts:
    """What each method is, and the choice of `algorithm=` that it is where it goes by another name."""
    named = {
        m.label: "" if m.algorithm in (m.label, m.description) else f" (algorithm={m.algorithm})"
        for m in comparison.methods
    }
    return Facts([(m.label, f"{m.description}{named[m.label]}") for m in comparison.methods])


def findings(comparison: Comparison) -> Points:
    """What was found, a few sentences about each of likelihood, samples, cost and controls."""
    likelihoods = [_of_kind(comparison, kind) for kind in tables.kinds(comparison)]
    if comparison.several and likelihoods:
        likelihoods.append(
            "Behind each mean its 95 % interval over training seeds, of two seeds their values; ± behind a method that "
            "was trained once is the standard error over windows."
        )
    found = [
        ("Likelihood", " ".join(likelihoods)),
        (" against ".join(reversed(comparison.pair or ())), versus.finding(comparison)),
        ("Samples", _samples(comparison)),
        ("Cost", _cost(comparison)),
        ("Controls", _controls(comparison)),
    ]
    return Points([(lead, said) for lead, said in found if said])


def facts(comparison: Comparison) -> Facts:
    """What was run; what is not known is left out."""
    about = comparison.about
    sampling = about.get("sampling") or {}
    amount = ""
    if sampling.get("n_samples") and sampling.get("length"):
        prompt = f"after {sampling['prompt']!r}" if sampling.get("prompt") else "from an empty prompt"
        amount = f"{sampling['n_samples']} texts of {sampling['length']} tokens at each seed, {prompt}"
    budgets = _budgets(comparison)
    items = [
        ("corpus", about.get("dataset")),
        ("training", _spoken(budgets) if len(budgets) > 1 else _steps(*budgets)),
        _training_seeds(comparison),
        (
            "likelihood on",
            ", ".join(filter(None, (about.get("split") and f"{about['split']} split", about.get("part")))),
        ),
        ("sampling", amount),
        ("sampling seeds", ", ".join(map(str, sampling.get("seeds") or comparison.sampling_seeds))),
        ("judges", "; ".join(map(_judge, comparison.judges)) or "none"),
        ("machine", _machine(about.get("machine") or {})),
        ("commit", about.get("git_commit")),
    ]
    return Facts([(name, str(value)) for name, value in items if value not in (None, "")])


def _budgets(comparison: Comparison) -> dict[int | None, list[str]]:
    """Steps of training -> the methods that learned for so many; None: it is not known."""
    found: dict[int | None, list[str]] = {}
    for method in comparison.methods:
        asked = comparison.about.get("steps") if method.trained_here else None
        for steps in dict.fromkeys(one.cost.get("steps", asked) for one in method.trainings):
            found.setdefault(steps, []).append(method.label)
    return found


def _training_seeds(comparison: Comparison) -> tuple[str, Any]:
    """Which seeds the methods were trained with, where that is known of all or there are several."""
    spoken = {method.label: _seeds(comparison, method) for method in comparison.methods}
    name = "training seeds" if comparison.several else "training seed"
    if not comparison.several and None in spoken.values():
        return name, None
    if len({*spoken.values()}) == 1:
        return name, next(iter(spoken.values()))
    return "training seeds", "; ".join(f"{label} {seeds or 'unknown'}" for label, seeds in spoken.items())


def _seeds(comparison: Comparison, method: Method) -> str | None:
    """The training seeds of a method, or how many runs have none that tells them apart; None where its one is unknown.

    Older files leave out the seed of a single training made there, which is the comparison's.
    """
    if method.first.numbered:
        return f"{len(method.trainings)} runs, whose seeds are not known" if len(method.trainings) > 1 else None
    usual = comparison.about.get("seed") if method.trained_here else None
    seeds = [usual if one.seed is None else one.seed for one in method.trainings]
    return None if None in seeds else ", ".join(map(str, seeds))


def _steps(steps: int | None) -> str:
    return "" if steps is None else f"{steps:,} steps"


def _spoken(budgets: dict[int | None, list[str]]) -> str:
    """Who learned for how long."""
    said = [f"{naming.listed(who)} {_steps(steps) or 'an unknown number of steps'}" for steps, who in budgets.items()]
    return ", ".join(said)


def unflagged(comparison: Comparison) -> list[Setting]:
    """Controls that were checked and that no metric flags."""
    return [key for key in comparison.controls if key in comparison.flags and not comparison.flags[key]]


def ahead(comparison: Comparison) -> list[Setting]:
    """Controls that the judge alone would put before every method's default."""
    defaults = [mean for _, mean in _defaults(comparison, "judge_nll")]
    controls = [(key, comparison.estimate(key, "judge_nll")) for key in comparison.controls]
    return [key for key, found in controls if defaults and found and found.mean < min(defaults)]


def _of_kind(comparison: Comparison, kind: str) -> str:
    """The lowest likelihood of one kind, and whether the next one can be told from it; of bounds, what they mean."""
    members = [each for each in comparison.likelihoods if each.kind == kind]
    if kind == BOUND:
        values = naming.listed([f"{_name(comparison, each)} {naming.nats(each, 3)}" for each in members])
        return f"Upper bounds, above the true value by an unknown amount and ranked against no exact one: {values}."
    members.sort(key=lambda each: each.nats)
    best = members[0]
    bits = "" if best.bits is None else f" ({best.bits:.3f} bits per character)"
    named = kind if kind == EXACT else f"“{kind}”"
    said = f"The {'lowest' if len(members) > 1 else 'one'} {named} likelihood is that of {_name(comparison, best)}"
    said += f", {naming.nats(best, 3)} nats per token{bits}"
    gap = tables.gap(comparison, best, members[1]) if len(members) > 1 else None
    if gap is None or math.isnan(gap.error):
        return f"{said}."
    second, shown = _name(comparison, members[1]), f"{gap.mean:+.3f} ± {gap.error:.3f}"
    if gap.several:
        over = (
            versus.TOO_FEW if gap.interval is None else "{:+.3f} to {:+.3f} over training seeds".format(*gap.interval)
        )
        shown = f"{shown} over windows, {over}"
    if not gap.known:
        return f"{said}; whether {second} stands above it is not known ({shown})."
    if not gap.settled:
        return f"{said}; {second} cannot be told from it ({shown})."
    if gap.several:
        return f"{said}; {second} stands above it ({shown}), which holds over training seeds."
    return f"{said}; {second} stands {shown.removeprefix('+')} above it on the same windows."


def _samples(comparison: Comparison) -> str:
    """Where the judge puts the samples of the default decoders, next to real text; without the word better."""
    found = _defaults(comparison, "judge_nll")
    if not found:
        return ""
    real = comparison.estimate(REAL, "judge_nll")
    beside = "" if real is None else f"; real text gets {format(real.mean, BY_KEY['judge_nll'].form)}"
    return (
        "What a judge that learned from other texts thinks of samples of the default decoders, in nats per character: "
        f"{_values(found, 'judge_nll')}{beside}. A low value alone is no quality: loops and copies get one, too."
    )


def _cost(comparison: Comparison) -> str:
    found = _defaults(comparison, "seconds")
    if not found:
        return ""
    said = f"All texts of one sampling seed with the default decoders, in seconds: {_values(found, 'seconds')}"
    forwards = _defaults(comparison, "forwards")
    return said + (f"; in forwards of the network: {_values(forwards, 'forwards')}." if forwards else ".")


def _controls(comparison: Comparison) -> str:
    checked = [key for key in comparison.controls if key in comparison.flags]
    missed = unflagged(comparison)
    if not checked:
        return ""
    count = f"{len(checked) - len(missed)} of {len(checked)}"
    said = f"{count} samplers of nonsense, loops or copies are flagged by at least one metric"
    return f"{said}; NOT flagged: {naming.listed([naming.sampler(key) for key in missed])}." if missed else f"{said}."


def _defaults(comparison: Comparison, metric: str) -> Estimates:
    """A metric of every method's default setting that has it, in the order of the methods."""
    found = [(key[0], comparison.estimate(key, metric)) for key in comparison.defaults]
    return [(label, estimate.mean) for label, estimate in found if estimate]


def _values(found: Sequence[tuple[str, float]], metric: str) -> str:
    return naming.listed([f"{label} {mean:{BY_KEY[metric].form}}" for label, mean in found])


def _name(comparison: Comparison, likelihood: Likelihood) -> str:
    """The method, and which of its likelihoods where it has several."""
    own = [each for each in comparison.likelihoods if each.method == likelihood.method]
    return likelihood.method if len(own) == 1 else f"{likelihood.method} ({likelihood.name})"


def _judge(judge: dict[str, Any]) -> str:
    if not judge.get("dataset"):
        return str(judge.get("folder", "of unknown origin"))
    nll, error = judge.get("test_nll"), judge.get("test_nll_error")
    known = (
        ""
        if nll is None
        else f", test NLL {nll:.3f}{'' if error is None else f' ± {error:.3f}'} nats per token (exact)"
    )
    return f"a GPT trained on {judge['dataset']}, seed {judge.get('seed')}{known}"


def _machine(machine: dict[str, Any]) -> str:
    """The computer in one line."""
    cores, threads = machine.get("cpu_cores"), machine.get("torch_threads")
    counts = [f"{n} {word}{'s' * (n > 1)}" for n, word in ((cores, "CPU core"), (threads, "thread")) if n]
    return ", ".join([*(machine.get("gpus") or []), *counts, *filter(None, [machine.get("platform")])])
