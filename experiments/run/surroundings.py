"""What the surroundings of a run may lack: a terminal for every character, a user with a name and a home, quiet cores.

Nothing heavy is imported here.
"""

import getpass
import os
import tempfile

from experiments.analysis.command_line import show_what_can_be_shown
from experiments.run.threads import wait_politely

CACHES = ("MPLCONFIGDIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME")  # where libraries keep theirs


def settle_in() -> None:
    """Make up for what is missing, before anything else is imported."""
    show_what_can_be_shown()
    _name_the_user()
    wait_politely()


def _name_the_user() -> None:
    """Give a user that the system does not know, as in containers, a name, and a place in which a home would be: torch,
    Matplotlib and W&B ask for them and keep caches there."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # by system and version
        os.environ["USER"] = f"user-{os.getuid()}"
    home = os.path.expanduser("~")
    if not os.access(home, os.W_OK):
        place = tempfile.mkdtemp(prefix="home-")
        for variable in CACHES:
            os.environ.setdefault(variable, place)
        if home == "~":
            os.environ["HOME"] = place
