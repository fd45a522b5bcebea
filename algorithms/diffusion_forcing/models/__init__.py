"""The networks of Diffusion Forcing LM, one for each parameterisation."""

from collections.abc import Callable

from algorithms.diffusion_forcing.models.base import Denoiser, NeighbourStates
from algorithms.diffusion_forcing.models.faithful import FaithfulDenoiser
from algorithms.diffusion_forcing.models.shifted import ShiftedDenoiser
from algorithms.diffusion_forcing.models.two_stream import StreamConfig, TwoStreamDenoiser

DENOISERS: dict[str, Callable[..., Denoiser]] = {  # made of a DFLMConfig and the size of the vocabulary
    "two_stream": TwoStreamDenoiser,
    "shifted": ShiftedDenoiser,
    "faithful": FaithfulDenoiser,
}

__all__ = ["DENOISERS", "NeighbourStates", "ShiftedDenoiser", "StreamConfig"]
