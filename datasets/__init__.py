"""Corpora, tokenizers, prepared token arrays and the data module; nothing else of this project is imported here."""
