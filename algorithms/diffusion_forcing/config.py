"""Settings of Diffusion Forcing LM, and which of them go together."""

from dataclasses import dataclass, field

from algorithms.common.backbone import BackboneConfig
from algorithms.common.optim import OptimizerConfig
from algorithms.diffusion_forcing.decoding.settings import AnyDecoder, MatrixDecoder
from algorithms.diffusion_forcing.models import DENOISERS, StreamConfig
from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig
from algorithms.diffusion_forcing.process import INFORMATION
from algorithms.diffusion_forcing.process.row_mixture import RowMixture

PARAMETERISATIONS = tuple(DENOISERS)


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise process and its loss weights, as in the original; checked by the process itself."""

    timesteps: int = 32
    beta_schedule: str = "cosine"
    fit_every_steps: int = 250
    objective: str = "pred_noise"
    use_fused_snr: bool = True
    snr_clip: float = 5.0
    cum_snr_decay: float = 0.95
    clip_noise: float = 5.0
    log_snr_shift: float = 0.0

    def __post_init__(self) -> None:
        if self.fit_every_steps < 1:
            raise ValueError(f"algorithm.diffusion.fit_every_steps is {self.fit_every_steps}: it must be at least 1")
        if self.beta_schedule == INFORMATION and self.log_snr_shift != 0:
            raise ValueError(
                "algorithm.diffusion.log_snr_shift moves a fixed schedule, and beta_schedule=information is fitted: "
                "set it to 0"
            )


@dataclass(frozen=True)
class DFLMConfig:
    """Settings of `algorithm=df_lm`; the loss is mse_weight · weighted MSE + ce_weight · token cross-entropy."""

    backbone: BackboneConfig
    name: str = "df_lm"
    parameterisation: str = "two_stream"
    time_fusion: str = "add"
    mse_weight: float = 0.0
    ce_weight: float = 1.0
    self_conditioning: float = 0.0
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    rows: RowMixture = field(default_factory=RowMixture)
    streams: StreamConfig = field(default_factory=StreamConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    decoder: AnyDecoder = field(default_factory=MatrixDecoder)

    def __post_init__(self) -> None:
        if self.parameterisation not in PARAMETERISATIONS:
            raise ValueError(
                f"algorithm.parameterisation is '{self.parameterisation}': choose one of {', '.join(PARAMETERISATIONS)}"
            )
        if not 0 <= self.self_conditioning <= 1:
            raise ValueError(f"algorithm.self_conditioning is {self.self_conditioning}: it must lie in [0, 1]")
        if self.self_conditioning and self.parameterisation == "faithful":
            raise ValueError(
                "algorithm.self_conditioning feeds token probabilities back, which parameterisation=faithful has none "
                "of: set it to 0"
            )
        if self.parameterisation != "faithful" and self.diffusion.objective != "pred_x0":
            raise ValueError(
                f"algorithm.diffusion.objective is '{self.diffusion.objective}': parameterisation="
                f"{self.parameterisation} predicts the clean embedding; set it to pred_x0"
            )
        if self.diffusion.beta_schedule == INFORMATION:
            if self.parameterisation == "faithful":
                raise ValueError(
                    "algorithm.diffusion.beta_schedule=information is fitted to token probabilities, which "
                    "parameterisation=faithful has none of: take cosine, linear or sigmoid"
                )
            if self.embedding.norm != "fixed":
                raise ValueError(
                    "algorithm.diffusion.beta_schedule=information measures noise against the norm of an embedding: "
                    "set algorithm.embedding.norm=fixed"
                )
        if min(self.mse_weight, self.ce_weight) < 0 or self.mse_weight + self.ce_weight == 0:
            raise ValueError(
                f"algorithm.mse_weight ({self.mse_weight}) and ce_weight ({self.ce_weight}) cannot be negative, "
                "and one of them must be above 0"
            )
