"""Decoders of Diffusion Forcing: along a scheduling matrix, or by speculation."""
