"""What a training needs beside the method: trainer, callbacks, checkpoints, loggers, runs as child processes."""
