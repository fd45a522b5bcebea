"""The networks of Diffusion Forcing LM, one for each parameterisation."""

from algorithms.diffusion_forcing.denoisers.faithful import FaithfulDenoiser
from algorithms.diffusion_forcing.denoisers.shifted import Known, ShiftedDenoiser
from algorithms.diffusion_forcing.denoisers.two_stream import StreamConfig, TwoStreamDenoiser

__all__ = ["FaithfulDenoiser", "Known", "ShiftedDenoiser", "StreamConfig", "TwoStreamDenoiser"]
