"""Runs: configuration, trainer, checkpoints, logging and tasks. The one place where Hydra meets the code."""
