"""From a command line to a run folder: resume and load, configuration, errors, files, sweeps."""
