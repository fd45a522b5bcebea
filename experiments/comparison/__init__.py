"""Methods compared: trained where they are missing, evaluated on the same windows, prompts and seeds, reported."""
