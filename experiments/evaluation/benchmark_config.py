"""Settings of experiment=benchmark, checked before any work."""

from collections.abc import Iterable
from dataclasses import field
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from algorithms.common.fields import STRICT, Count, Positive
from experiments.analysis.benchmark import DECODING, TRAINING
from experiments.evaluation.settings import KEY, expand
from experiments.run.build import called
from experiments.run.errors import near_miss
from experiments.run.folder import CONFIGS
from experiments.run.schema import EvaluationConfig, LanguageModelingConfig, SamplingConfig, TrainingConfig

TRIAL = 20  # steps below which a run is a trial: nothing is compiled for it


@dataclass(frozen=True, config=STRICT)
class Size:
    """How a backbone is trained: windows in a batch, and tokens that its network knows, None those of the corpus."""

    batch_size: Count
    vocabulary_size: Count | None = None


ON_A_CPU = {"tiny": Size(32), "nanogpt_cpu": Size(12)}
ON_A_GPU = {"baby": Size(64), "gpt2": Size(16, 50257)}


@dataclass(frozen=True, config=STRICT)
class BenchmarkConfig(LanguageModelingConfig):
    """`experiment=benchmark`: methods x backbones x modes of training, and decoders x numbers of texts.

    `backbones`, `modes` and `minutes` None are those of the device; `decoders` are timed beside each method's own,
    with every method that they fit. `training.max_steps` bounds the timed steps of an arm, `sampling.n_samples` the
    texts at once.
    """

    name: str = "benchmark"
    tasks: list[str] = field(default_factory=lambda: [DECODING, TRAINING])
    methods: list[str] = field(
        default_factory=lambda: ["gpt", "df_lm", "masked_diffusion", "diffusion_flow", "block_diffusion"]
    )
    backbones: dict[str, Size] | None = None
    modes: list[Literal["eager", "compiled", "graphs"]] | None = None
    decoders: list[Any] = field(default_factory=lambda: ["pyramid", "speculative"])
    texts: list[Count] = field(default_factory=lambda: [1, 16, 256])
    rounds: Count = 3
    minutes: Positive | None = None
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(max_steps=200))
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(n_samples=256))

    parts_of_tasks: ClassVar[dict[str, tuple[str, ...]]] = {
        "modes": (TRAINING,),
        "decoders": (DECODING,),
        "texts": (DECODING,),
        **{f"training.{key}": (TRAINING,) for key in ("max_steps", "batch_size", "ema_decay")},
        "training.gradient_clip_norm": (TRAINING,),
        "sampling.length": (DECODING,),
        "sampling.n_samples": (DECODING,),
        **{
            f"training.{key}": ()
            for key in (
                "accumulate_grad_batches",
                "val_every_steps",
                "checkpoint_every_steps",
                "compile",
                "overfit_batches",
            )
        },
        **{f"sampling.{key}": () for key in ("prompt", "prompt_file", "suffix", "stop")},
        "evaluation": (),
        "block_size": (),
    }

    def __post_init__(self) -> None:
        for key, values in (("methods", self.methods), ("modes", self.modes), ("texts", self.texts)):
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{key} is {values}: name at least one, and each once")
        if self.backbones == {}:
            raise ValueError("backbones is empty: name at least one with its batch, as in {tiny: {batch_size: 32}}")
        self._check_names("algorithm", "methods", self.methods)
        self._check_names("algorithm/backbone", "backbones", self.backbones or {})
        if self.decoders:
            with called(KEY, "decoders"):
                settings = expand(self.decoders, None)
            self._check_names("algorithm/decoder", "decoders", [str(name) for name, _ in settings])
        if min(self.texts) > self.sampling.n_samples:
            raise ValueError(f"texts is {self.texts}, and sampling.n_samples is {self.sampling.n_samples}: raise that")

    def _check_names(self, group: str, key: str, names: Iterable[str]) -> None:
        """Raise ValueError unless all of `names`, which stand at `key`, are files of a group of configs/."""
        known = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
        for name in names:
            if name not in known:
                raise ValueError(f"{key} holds '{name}', which is unknown{near_miss(name, known)}")
