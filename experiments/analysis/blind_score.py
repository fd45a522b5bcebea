"""What readers chose in a blind review: a filled sheet and its key in, wins and what they allow to conclude out."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = ("pair", "prompt", "text_1", "text_2", "verdict", "comment")
ARM_COLUMNS = ("method_A", "setting_A", "method_B", "setting_B")
KEY_COLUMNS = ("pair", "side_1", "side_2", *ARM_COLUMNS, "seed")
ARMS = ("A", "B")
VERDICTS = ("1", "2", "tie")
LEVEL = 0.95

Arm = tuple[str, str]  # method and setting


def score(sheet: Path, key: Path) -> dict[str, Any]:
    """Wins of each arm on a filled sheet, ties, and what may be concluded from them.

    `p` is that of the two-sided exact sign test, `low` and `high` the Clopper-Pearson interval of A's share of the
    decided pairs; all None where none is decided. Raises FileNotFoundError, and ValueError for a sheet that is not
    the key's, lacks rows of it, or holds other verdicts than VERDICTS.
    """
    keys = _by_pair(read_sheet(key, KEY_COLUMNS, "key"), key)
    rows = _by_pair(read_sheet(sheet, ("pair", "verdict"), "sheet"), sheet)
    arms = {tuple(row[name] for name in ARM_COLUMNS) for row in keys.values()}
    if len(arms) != 1 or any({row["side_1"], row["side_2"]} != set(ARMS) for row in keys.values()):
        raise ValueError(f"{key} is damaged, as its rows do not tell which side is which: make the review again")
    if strangers := [name for name in rows if name not in keys]:
        raise ValueError(f"{sheet} has pairs that {key} does not know ({_some(strangers)}): take the key made with it")
    if missing := [name for name in keys if name not in rows]:
        raise ValueError(f"{sheet} lacks {len(missing)} of the {len(keys)} pairs ({_some(missing)}): put the rows back")
    verdicts = {name: row["verdict"].strip().lower() for name, row in rows.items()}
    if unknown := [f"{v!r} at {name}" for name, v in verdicts.items() if v and v not in VERDICTS]:
        raise ValueError(f"{sheet} holds verdicts other than {', '.join(VERDICTS)}: {_some(unknown)}")
    chosen = [keys[name][f"side_{verdict}"] for name, verdict in verdicts.items() if verdict in VERDICTS[:2]]
    (method_a, setting_a, method_b, setting_b) = arms.pop()
    wins, decided = chosen.count("A"), len(chosen)
    p, low, high = sign_test(wins, decided) if decided else (None, None, None)
    said = list(verdicts.values())
    return {
        "A": label((method_a, setting_a)),
        "B": label((method_b, setting_b)),
        "pairs": len(keys),
        "unfilled": said.count(""),
        "wins_A": wins,
        "wins_B": decided - wins,
        "ties": said.count("tie"),
        "share_A": wins / decided if decided else None,
        "low": low,
        "high": high,
        "p": p,
        "chosen_1": said.count("1"),
        "chosen_2": said.count("2"),
    }


def sign_test(wins: int, decided: int) -> tuple[float, float, float]:
    """Two-sided exact p of `wins` of n decided pairs, if either side is as likely to win, and the Clopper-Pearson
    interval of the probability to win: at 95 % it leaves 1/2 out just where p is below 5 %."""
    from scipy.stats import binomtest  # which takes a second to import

    found = binomtest(wins, decided)
    low, high = found.proportion_ci(LEVEL, "exact")
    return float(found.pvalue), float(low), float(high)


def report(scored: Mapping[str, Any]) -> str:
    """What score found, for people."""
    width = max(len(scored[arm]) for arm in ARMS)
    lines = [f"{scored['pairs'] - scored['unfilled']} of {scored['pairs']} pairs are filled in"]
    lines[0] += f", {scored['unfilled']} are not" if scored["unfilled"] else ""
    lines += [f"{arm}  {scored[arm]:{width}}  {scored[f'wins_{arm}']:4} won" for arm in ARMS]
    lines.append(f"   {'':{width}}  {scored['ties']:4} ties")
    decided = scored["wins_A"] + scored["wins_B"]
    if not decided:
        return "\n".join([*lines, "no pair is decided, so there is nothing to conclude"])
    lines += [
        f"A won {scored['share_A']:.0%} of the {decided} decided pairs ({LEVEL:.0%} interval, Clopper-Pearson: "
        f"{scored['low']:.0%} to {scored['high']:.0%}); two-sided exact sign test: p = {scored['p']:.2g}",
        f"side 1 was chosen {scored['chosen_1']} times, side 2 {scored['chosen_2']} times",
    ]
    return "\n".join(lines)


def read_sheet(path: Path, columns: Sequence[str], what: str) -> list[dict[str, str]]:
    """Rows of a CSV file that may have been through a spreadsheet: any delimiter, line ends and byte order mark, more
    columns in another order, blank rows at the end."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: name the {what} of a blind review")
    raw = path.read_bytes()
    # Names of pairs and verdicts are ASCII: a text in another encoding does not matter.
    text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")
    for delimiter in (",", ";", "\t"):
        try:
            lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        except csv.Error as error:
            raise ValueError(f"{path} is no readable CSV file ({error}): save the {what} as CSV again") from error
        header = [name.strip() for name in lines[0]] if lines else []
        if set(columns) <= set(header):
            filled = [line for line in lines[1:] if any(cell.strip() for cell in line)]
            return [dict.fromkeys(columns, "") | dict(zip(header, line, strict=False)) for line in filled]
    raise ValueError(f"{path} is not the {what} of a blind review: it lacks one of the columns {', '.join(columns)}")


def _by_pair(rows: Sequence[dict[str, str]], path: Path) -> dict[str, dict[str, str]]:
    names = [row["pair"].strip() for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} has pairs more than once ({_some(twice)}): leave each in once")
    return dict(zip(names, rows, strict=True))


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")


def label(arm: Arm) -> str:
    """How an arm is called: METHOD: SETTING."""
    return f"{arm[0]}: {arm[1]}"
