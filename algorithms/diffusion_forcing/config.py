"""Settings of Diffusion Forcing LM, and which of them go together."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from algorithms.common.backbone import BackboneConfig
from algorithms.common.fields import STRICT, Count, NonNegative, Number, Positive, Share
from algorithms.common.optim import OptimizerConfig
from algorithms.diffusion_forcing.decoding.settings import AnyDecoder, MatrixDecoder
from algorithms.diffusion_forcing.models import StreamConfig
from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig
from algorithms.diffusion_forcing.process import INFORMATION
from algorithms.diffusion_forcing.process.row_mixture import RowMixture

OF_THE_SQUARED_ERROR = ("use_fused_snr", "snr_clip", "cum_snr_decay")  # its weights


@dataclass(frozen=True, config=STRICT)
class DiffusionConfig:
    """The noise process and its loss weights, as in the original; checked by the process itself."""

    timesteps: Count = 32
    beta_schedule: Literal["information", "linear", "cosine", "sigmoid"] = "information"
    fit_every_steps: Count = 250
    objective: Literal["pred_noise", "pred_x0", "pred_v"] = "pred_x0"
    use_fused_snr: bool = True
    snr_clip: Positive = 5.0
    cum_snr_decay: Share = 0.95
    clip_noise: Positive = 5.0
    log_snr_shift: Number = 0.0

    def unused(self) -> dict[str, str]:
        """Fields that make no difference beside others -> the one because of which."""
        found = {} if self.use_fused_snr else {"cum_snr_decay": "use_fused_snr"}
        return found | ({} if self.beta_schedule == INFORMATION else {"fit_every_steps": "beta_schedule"})

    def __post_init__(self) -> None:
        if self.beta_schedule == INFORMATION and self.log_snr_shift != 0:
            raise ValueError(
                "log_snr_shift moves a fixed schedule, and beta_schedule=information is fitted: set it to 0"
            )


@dataclass(frozen=True, config=STRICT)
class DFLMConfig:
    """Settings of `algorithm=df_lm`; the loss is mse_weight · weighted MSE + ce_weight · token cross-entropy."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    name: Literal["df_lm"] = "df_lm"
    parameterisation: Literal["two_stream", "shifted", "faithful"] = "two_stream"
    time_fusion: Literal["add", "concat_mlp"] = "concat_mlp"
    mse_weight: NonNegative = 0.0
    ce_weight: NonNegative = 1.0
    self_conditioning: Share = 0.0
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    rows: RowMixture = field(default_factory=RowMixture)
    streams: StreamConfig = field(default_factory=StreamConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    decoder: Annotated[AnyDecoder, Field(discriminator="name")] = field(default_factory=MatrixDecoder)

    def unused(self) -> dict[str, str]:
        """Fields that make no difference beside others -> the one because of which."""
        found: dict[str, str] = {}
        if self.mse_weight == 0:
            found |= dict.fromkeys([f"diffusion.{key}" for key in OF_THE_SQUARED_ERROR], "mse_weight")
        if self.parameterisation != "two_stream":
            found["streams"] = "parameterisation"
        elif self.ce_weight == 0:
            found["streams.weight"] = "ce_weight"
        if isinstance(self.decoder, MatrixDecoder):
            if self.embedding.norm == "fixed":  # the nearest of equally long vectors has the largest product
                found["decoder.rounding"] = "embedding.norm"
            if self.parameterisation == "faithful":
                found["decoder.use_cache"] = "parameterisation"
            if self.decoder.sampling_timesteps == self.diffusion.timesteps and self.decoder.level_power == 1:  # DDPM
                found["decoder.ddim_eta"] = "decoder.sampling_timesteps"
        return found

    def __post_init__(self) -> None:
        if self.self_conditioning and self.parameterisation == "faithful":
            raise ValueError(
                "self_conditioning feeds token probabilities back, which parameterisation=faithful has none "
                "of: set it to 0"
            )
        if self.parameterisation != "faithful" and self.diffusion.objective != "pred_x0":
            raise ValueError(
                f"diffusion.objective is '{self.diffusion.objective}': parameterisation="
                f"{self.parameterisation} predicts the clean embedding; set it to pred_x0"
            )
        if self.diffusion.beta_schedule == INFORMATION:
            if self.parameterisation == "faithful":
                raise ValueError(
                    "diffusion.beta_schedule=information is fitted to token probabilities, which "
                    "parameterisation=faithful has none of: take cosine, linear or sigmoid"
                )
            if self.embedding.norm != "fixed":
                raise ValueError(
                    "diffusion.beta_schedule=information measures noise against the norm of an embedding: "
                    "set embedding.norm=fixed"
                )
        if self.mse_weight + self.ce_weight == 0:
            raise ValueError("mse_weight and ce_weight are both 0: one of them must be above 0")
