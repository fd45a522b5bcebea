"""Small untrained models of every parameterisation, with weights large enough that what they read makes a difference.

V vocabulary; the context holds 8 tokens unless told otherwise.
"""

from collections.abc import Sequence

import torch

from algorithms.common.backbone import BackboneConfig
from algorithms.common.decoder import Generation, Request
from algorithms.diffusion_forcing.config import DFLMConfig, DiffusionConfig
from algorithms.diffusion_forcing.decoding.settings import AnyDecoder, MatrixDecoder
from algorithms.diffusion_forcing.df_lm import DFLM
from algorithms.diffusion_forcing.models import StreamConfig
from algorithms.diffusion_forcing.models.embeddings import EmbeddingConfig
from algorithms.diffusion_forcing.process.row_mixture import RowMixture

V = 5
MEAN = MatrixDecoder(schedule="pyramid", sampling_timesteps=8, ddim_eta=0.0, chunk_size=16, token_draw="mean")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_ids(batch: int = 3, tokens: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, V, (batch, tokens), generator=generator(seed))


def next_token(
    parameterisation: str, style: str = "rope", fusion: str = "concat_mlp", *, block_size: int = 8, **changes
) -> DFLM:
    """A model as it starts, of a parameterisation that predicts next tokens."""
    settings = {
        "embedding": EmbeddingConfig(dim=4),
        "diffusion": DiffusionConfig(beta_schedule="cosine", log_snr_shift=-1.4, timesteps=16),
        "rows": RowMixture(independent=1, schedule=1, tail=1, clean=1, together=1),
        "streams": StreamConfig(max_window=4),
    } | changes
    backbone = BackboneConfig(2, 2, 16, block_size, style=style)
    config = DFLMConfig(backbone, parameterisation=parameterisation, time_fusion=fusion, **settings)
    return DFLM(config, vocabulary_size=V).eval()


def lively(model: DFLM) -> DFLM:
    """The model in float64 with all matrices drawn anew from N(0, 0.3²); those that start as zeros, too."""
    draw = generator()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=draw)
    return model.double()


def shifted(*arguments, **changes) -> DFLM:
    return lively(next_token("shifted", *arguments, **changes))


def two_stream(*arguments, **changes) -> DFLM:
    return lively(next_token("two_stream", *arguments, **changes))


def faithful(style: str = "nanogpt", objective: str = "pred_noise", **changes) -> DFLM:
    """The original's recipe, as it starts."""
    settings = {
        "embedding": EmbeddingConfig(dim=None, norm="free"),
        "mse_weight": 1.0,
        "ce_weight": 0.0,
        "decoder": MEAN,
        "diffusion": DiffusionConfig(beta_schedule="cosine", objective=objective),
        "time_fusion": "add",
        "rows": RowMixture(independent=1, schedule=0, tail=0, clean=0, together=0),
    } | changes
    config = DFLMConfig(BackboneConfig(2, 2, 16, 8, style=style), parameterisation="faithful", **settings)
    return DFLM(config, vocabulary_size=V).eval()


def digits(text: str) -> list[int]:
    """A tokenizer whose tokens are digits."""
    return [int(character) for character in text]


def asked(
    prompt: torch.Tensor, *, length: int, seeds: Sequence[int], suffix: torch.Tensor | None = None, trace: bool = False
) -> Request:
    """`length` tokens after each prompt (B, P), and before its suffix (B, S)."""
    tail = prompt[:, :0] if suffix is None else suffix
    ids = torch.cat([prompt, prompt.new_zeros(len(prompt), length), tail], dim=1)
    is_given = torch.ones_like(ids, dtype=torch.bool)
    is_given[:, prompt.size(1) : prompt.size(1) + length] = False
    return Request(ids, is_given, list(seeds), trace=trace, encode=digits)


def write(model: DFLM, prompt: torch.Tensor, *, decoder: AnyDecoder, **wanted) -> Generation:
    """What `decoder` makes of a request as in `asked`."""
    return model.generate(asked(prompt, **wanted), decoder)
