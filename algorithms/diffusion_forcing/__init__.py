"""Diffusion Forcing for text: diffusion of token embeddings, every token at its own noise level."""
