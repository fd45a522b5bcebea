"""How the threads of torch wait for each other on a CPU: not in a loop that takes a core from whoever needs it.

Milliseconds a step of gpt at `tiny` on two cores, alone and beside one busy process: 79 to 87 and 263 as libgomp spins
by itself, 72 and 154 as here. libgomp reads its variables once, when torch is imported.
"""

import os

CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # by which users say how to wait
SPINS = "100"  # what libgomp itself takes once it knows of more threads than cores


def wait_politely() -> None:
    """Spin for a moment and then sleep, unless the user has chosen. What is computed stays the same to the bit."""
    if not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = SPINS
