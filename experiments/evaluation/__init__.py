"""Trained models measured: likelihoods, decoders at many settings, judges, traces."""
