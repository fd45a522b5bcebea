"""Decoders of Diffusion Forcing: along a scheduling matrix, or by drafts from windows of noise."""
