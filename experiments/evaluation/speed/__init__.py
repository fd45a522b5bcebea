"""How fast training steps and decoders are on this machine, and how far from what it can do."""
