"""torch.compile of the networks: what it needs is checked before any work, and what fails later is one sentence."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch._dynamo.exc import BackendCompilerFailed

KEY = "experiment.training.compile"
COMPILERS = {"darwin": "clang++", "win32": "cl"}  # that torch asks for, elsewhere g++


def check_compiler() -> None:
    """Raise ValueError unless the C++ compiler is there that torch.compile asks for."""
    name = os.environ.get("CXX") or COMPILERS.get(sys.platform, "g++")
    if shutil.which(name) is None:
        raise ValueError(
            f"{KEY} needs a C++ compiler, and there is no {name}: install it, name another by the variable CXX, or say "
            f"{KEY}=false"
        )


@contextmanager
def compiling() -> Iterator[None]:
    """What torch.compile cannot do inside is a ValueError of one sentence."""
    try:
        yield
    except BackendCompilerFailed as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        raise ValueError(f"torch.compile fails here ({reason}): say {KEY}=false") from error
