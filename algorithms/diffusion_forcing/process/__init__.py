"""The Gaussian noise process: schedules, loss weights, levels drawn in training. It knows no network."""
