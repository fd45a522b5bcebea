"""Decoders measured: settings from the command line, texts sampled and scored, rows kept on disk."""
