"""Diffusion Forcing for text: diffusion of token embeddings, every token at its own noise level."""

from algorithms.diffusion_forcing.decoding.scheduling_matrix import scheduling_matrix
from algorithms.diffusion_forcing.diffusion import Diffusion

__all__ = ["Diffusion", "scheduling_matrix"]
