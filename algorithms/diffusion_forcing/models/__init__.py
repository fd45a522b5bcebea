"""The networks of Diffusion Forcing LM, one for each parameterisation."""

from algorithms.diffusion_forcing.models.faithful import FaithfulDenoiser
from algorithms.diffusion_forcing.models.shifted import NeighbourStates, ShiftedDenoiser
from algorithms.diffusion_forcing.models.two_stream import StreamConfig, TwoStreamDenoiser

__all__ = ["FaithfulDenoiser", "NeighbourStates", "ShiftedDenoiser", "StreamConfig", "TwoStreamDenoiser"]
