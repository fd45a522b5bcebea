"""Entry point: python main.py [group=choice] [key=value] ...   (python main.py --help shows all choices)

Composes the configuration, picks the experiment and runs its tasks. Nothing heavy is imported here, so that --help,
--cfg job and shell completion answer at once.
"""

import sys

from experiments.launch import main

if __name__ == "__main__":
    sys.exit(main())
