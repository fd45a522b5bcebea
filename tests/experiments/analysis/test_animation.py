"""Animations of traces: layout and clock, colours, the GIF, the page, the terminal, and the command line."""

import io
import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from rich.style import Style

from experiments.analysis.animation import frames, html_fragment, look, terminal, write_gif, write_html
from experiments.analysis.animation.__main__ import main
from experiments.analysis.animation.look import DARK, LIGHT, Kind
from experiments.analysis.trace import TraceRecord, read_trace, write_trace
from tests.experiments.analysis.test_trace import ODD, writing

TEXT = list("ROMEO:\nO, she doth teach the torches to burn bright.\nIt seems she hangs\n")
SLOW = writing(TEXT, given=6, name="slow")
FAST = writing(TEXT, given=6, step=4, scale="noise", name="fast")


class Screen(io.StringIO):
    """An output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


# --- layout and clock


@given(st.lists(st.sampled_from(["a", "bc", " ", "\n", "x y", "世", "", "e\n\nf", "long word"]), min_size=1), st.data())
def test_every_character_has_one_place_within_the_columns(tokens: list[str], data: st.DataObject) -> None:
    """Catches characters lost or doubled where a line breaks, lines that are too wide, and breaks that are missed."""
    columns = data.draw(st.integers(2, 12))
    wrapped = frames.lines(writing(tokens), columns)
    slots = [slot for line in wrapped for slot in line]
    expected = [(p, o, c) for p, token in enumerate(tokens) for o, c in enumerate(token or " ")]
    assert [(slot.position, slot.offset, slot.character) for slot in slots] == expected
    for line in wrapped:
        assert "\n" not in [slot.character for slot in line[:-1]]
        assert sum(slot.columns for slot in line) <= columns + (line[-1].character in " \n")


def test_lines_break_between_words() -> None:
    """Catches words torn apart that would fit the next line, and a line that is full already broken once more."""
    texts = ["".join(slot.character for slot in line) for line in frames.lines(SLOW, 20)]
    assert texts[1:3] == ["O, she doth teach ", "the torches to burn "]
    assert [len(line) for line in frames.lines(writing(list("a" * 9)), 4)] == [4, 4, 1]
    assert [len(line) for line in frames.lines(writing(list("abcd\nefgh ij")), 4)] == [5, 5, 2]


def test_a_cell_keeps_the_width_of_its_slot() -> None:
    """Catches a wide or a longer token of an early state that pushes the rest of its line."""
    states = [["世", "a\n", "b"], ["x", "世", "\n"], ["b", "ab", ""], ["世", "ab", "\n"]]
    levels = np.array([[0.5] * 3] * 3 + [[0.0] * 3])
    record = replace(writing(["世", "ab", "\n"]), tokens=states, levels=levels)
    slots = [slot for line in frames.lines(record, 9) for slot in line]
    drawn = [[cell.character for cell in frames.cells(record, slots, state, state)] for state in range(4)]
    assert drawn == [["世", "a", "↵", "b"], ["x ", "…", " ", "↵"], ["b ", "a", "b", " "], ["世", "a", "b", "↵"]]


def test_the_clock_counts_forwards() -> None:
    """Catches traces stretched to the same length, frames that leave out an end, and a frame asked for too many."""
    assert frames.times([SLOW, FAST], fps=12, max_frames=1000) == list(range(len(SLOW.tokens)))
    some = frames.times([FAST, SLOW], fps=12, max_frames=7)
    assert len(some) == 7 and some[0] == 0 and some[-1] == len(SLOW.tokens) - 1
    assert max(np.diff(some)) - min(np.diff(some)) <= 1
    last = len(FAST.tokens) - 1
    assert [frames.state_at(FAST, moment) for moment in (0, 1, last, last + 1, 999)] == [0, 1, last, last, last]
    assert frames.state_at(replace(FAST, forwards=FAST.forwards + 5), 0) == 0
    with pytest.raises(ValueError, match="1 frames are no animation: ask for at least 2"):
        frames.times([SLOW], fps=12, max_frames=1)


def test_states_without_a_pass_share_their_time() -> None:
    """Catches the earlier of two states at one time, and a cost counted in states."""
    record = replace(writing(list("abcd")), forwards=np.array([0, 1, 1, 2, 3]))
    assert [frames.state_at(record, moment) for moment in range(4)] == [0, 2, 3, 4]
    assert frames.counter(record, 2) == "1/3 forwards · 2/4 tokens · 2.00 tokens/forward"
    assert frames.counter(record, 0) == "0/3 forwards · 0/4 tokens"
    assert frames.counter(FAST, len(FAST.tokens) - 1).endswith(f"{FAST.tokens_per_forward:.2f} tokens/forward")


# --- looks


def test_kinds_follow_given_levels_and_scale() -> None:
    """Catches a draft shown as noise or the other way round, a given token as decided, and news that stay news."""
    record = writing(list("abcd"), given=1)
    assert look.kinds(record, 0, 0) == [Kind.GIVEN, Kind.MASKED, Kind.MASKED, Kind.MASKED]
    assert look.kinds(record, 1, 0) == [Kind.GIVEN, Kind.NEW, Kind.DRAFT, Kind.MASKED]
    assert look.kinds(record, 2, 1) == [Kind.GIVEN, Kind.DONE, Kind.NEW, Kind.DRAFT]
    noisy = replace(record, scale="noise")
    assert look.kinds(noisy, 1, 0) == [Kind.GIVEN, Kind.NEW, Kind.NOISE, Kind.NOISE]
    last = len(record.tokens) - 1
    assert frames.states(record, 99, 1) == (last, last) and set(look.kinds(record, last, last)[1:]) == {Kind.DONE}
    assert [name for _, name in look.legend([record])] == ["given", "masked", "draft", "decided just now", "decided"]
    assert Kind.NOISE in dict(look.legend([record, noisy])) and Kind.MASKED not in dict(look.legend([noisy]))


def contrast(a: look.Colour, b: look.Colour) -> float:
    """Contrast ratio of two colours (WCAG 2)."""

    def luminance(colour: look.Colour) -> float:
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read_in_every_state(theme: look.Theme) -> None:
    """Catches characters that drown in their background, and noise levels that do not differ."""
    for kind in Kind:
        for level in np.linspace(0, 1, 33) if kind is Kind.NOISE else [0.5]:
            colours = look.ink(theme, kind, float(level))
            assert kind is Kind.MASKED or contrast(colours.text, colours.back or theme.card) >= 4.5
    backs = [look.ink(theme, Kind.NOISE, level / 8).back for level in range(9)]
    assert backs[0] == theme.card and backs[-1] == theme.noise and len(set(backs)) == 9


# --- GIF


def frames_of(path: Path) -> tuple[list[Image.Image], list[int]]:
    with Image.open(path) as gif:
        shown, pauses = [], []
        for index in range(gif.n_frames):
            gif.seek(index)
            shown.append(gif.convert("RGB"))
            pauses.append(gif.info["duration"])
    return shown, pauses


def colours_in(image: Image.Image) -> set[look.Colour]:
    """Colours of areas, not of characters' edges, without the legend, which shows all."""
    found = image.crop((0, 0, image.width, image.height - 60)).getcolors(1 << 24)
    return {colour for count, colour in found if count > 150}


def test_a_gif_shows_the_states_by_colour(tmp_path: Path) -> None:
    """Catches states that look alike, a last frame that is not held or not clean, and a palette that shifts."""
    write_gif([SLOW, FAST], tmp_path / "a.gif", fps=10, max_frames=12)
    shown, pauses = frames_of(tmp_path / "a.gif")
    assert len(shown) == 12 and pauses[:-1] == [100] * 11 and pauses[-1] >= 3000
    back = {kind: LIGHT.kinds[kind].back for kind in (Kind.MASKED, Kind.DRAFT, Kind.NEW)}
    first, middle, last = (colours_in(shown[index]) for index in (0, 2, -1))
    assert {back[Kind.MASKED], LIGHT.noise, LIGHT.kinds[Kind.GIVEN].text, LIGHT.card} <= first
    assert back[Kind.NEW] not in first and set(back.values()) <= middle
    assert not {*back.values(), LIGHT.noise} & last and LIGHT.text in last


def test_a_frame_is_what_it_would_be_alone(tmp_path: Path) -> None:
    """Catches a frame that keeps cells, counters or bars of the one before, and states one frame late."""
    record = writing(TEXT, given=6, step=3)
    write_gif([record], tmp_path / "all.gif", max_frames=100)
    shown, _ = frames_of(tmp_path / "all.gif")
    for state in (1, 4, 9):
        kept = [state - 1, state, -1]
        short = {"tokens": [record.tokens[index] for index in kept], "levels": record.levels[kept]}
        write_gif([replace(record, **short, forwards=np.arange(3))], tmp_path / "few.gif")
        alone = frames_of(tmp_path / "few.gif")[0]
        for one, other in ((alone[1], shown[state]), (alone[-1], shown[-1])):
            below = (0, 104, one.width, one.height)  # the counter, whose total differs
            assert one.crop(below).tobytes() == other.crop(below).tobytes()


def test_four_methods_make_a_small_gif(tmp_path: Path) -> None:
    """Catches frames written whole, and one for each of a thousand forwards."""
    draw = np.random.default_rng(0)
    text = [str(letter) for letter in draw.choice(list("abcdefgh \n"), 128)]
    long = writing(text, scale="noise")
    long = replace(long, forwards=long.forwards * 8)
    write_gif([writing(text), long, writing(text, step=4), writing(text, step=8)], tmp_path / "a.gif", max_frames=60)
    assert len(frames_of(tmp_path / "a.gif")[0]) == 60
    assert (tmp_path / "a.gif").stat().st_size < 350_000


@pytest.mark.parametrize("fps", [0, -1, 51, float("nan")])
def test_a_pace_that_cannot_be_played_is_refused(tmp_path: Path, fps: float) -> None:
    """Catches a division by zero, and a GIF that programs would play at another pace than asked for."""
    for write in (write_gif, write_html):
        with pytest.raises(ValueError, match="frames per second cannot be played"):
            write([SLOW], tmp_path / "a", fps=fps)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="there is no trace to animate"):
        html_fragment([], page=True)


# --- page


class Page(HTMLParser):
    """The elements of a page, the texts of its panels, and its data."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.data: dict | None = None
        self._inside: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.elements.append((tag, found))
        if tag not in ("meta", "link", "input"):
            self._inside.append((tag, found.get("class") or found.get("type") or ""))
            self.texts.setdefault(self._inside[-1][1], []).append("")

    def handle_endtag(self, tag: str) -> None:
        opened, name = self._inside.pop()
        assert opened == tag
        if name == "application/json":
            self.data = json.loads(self.texts[name][-1])

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside[-1][1]][-1] += data


def unfolded(packed: dict) -> tuple[list[list[str]], list[list[float]]]:
    """What the player makes of a record: tokens and levels of all states."""
    tokens, levels = [packed["first"]["tokens"]], [packed["first"]["levels"]]
    for changed in packed["changes"]:
        tokens.append(list(tokens[-1]))
        levels.append(list(levels[-1]))
        for position, token, level in changed:
            tokens[-1][position], levels[-1][position] = token, level
    return [[packed["vocabulary"][token] for token in row] for row in tokens], levels


def test_a_page_holds_every_state_and_the_last_text() -> None:
    """Catches a state that is lost on the way to the player, and a page that is empty without JavaScript."""
    page = Page(html_fragment([SLOW, FAST], fps=20, max_frames=30, page=True))
    for record, packed in zip((SLOW, FAST), page.data["records"], strict=True):
        tokens, levels = unfolded(packed)
        assert tokens == record.tokens and levels == record.levels.tolist()
        assert packed["given"] == record.given.tolist() and packed["clock"] == record.forwards.tolist()
        assert packed["scale"] == record.scale
    assert page.texts["da-text"] == ["".join(TEXT)] * 2
    assert page.texts["da-title"] == ["slow: rule", "fast: rule"]
    last = len(SLOW.tokens) - 1
    assert {"first": 0, "last": last, "frames": 30, "interval": 50}.items() <= page.data.items()
    slider = next(attributes for tag, attributes in page.elements if tag == "input")
    assert (slider["type"], slider["min"], slider["max"], slider["step"]) == ("range", "0", str(last), "1")


def test_no_text_can_leave_its_place() -> None:
    """Catches a token or a label that ends the script, opens an element, or is lost in escaping."""
    evil = "</title></script><script>alert(1)</script><!--"
    record = replace(writing([*ODD, evil, "&amp;", "'"]), method=evil, decoder='"><b>')
    page = Page(html_fragment([record], page=True))
    assert [tag for tag, _ in page.elements].count("script") == 2 and "b" not in dict(page.elements)
    shown = [look.shown(token) for token in record.tokens[-1]]
    assert page.texts["da-text"] == ["".join(shown)] and page.texts["da-title"] == [f'{evil}: "><b>']
    assert unfolded(page.data["records"][0])[0][-1] == shown
    assert shown[:6] == ["<b>", "\n", "", "\ufffd[31m", "\ufffd", "世"]


def test_a_page_needs_nothing_from_elsewhere() -> None:
    """Catches a font, a script or a picture that a page opened offline would wait for."""
    text = html_fragment([SLOW, FAST], page=True)
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(" not in text
    for tag, attributes in Page(text).elements:
        assert not {"src", "srcset", "action"} & attributes.keys()
        assert attributes.get("href", "data:,") == "data:,", tag
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\b *\(", text)


def test_a_fragment_keeps_to_itself() -> None:
    """Catches styles, names or keys of an embedded animation that reach the page around it, or its twin there."""
    text = html_fragment([SLOW]) + html_fragment([SLOW])
    page = Page(text)
    assert text.startswith("<div") and not {"html", "head", "body", "title"} & {tag for tag, _ in page.elements}
    assert not [attributes for _, attributes in page.elements if "id" in attributes]
    names = {name for _, attributes in page.elements for name in (attributes.get("class") or "").split()}
    assert all(name.startswith("da-") or name == "decoding-animation" for name in names) and "da-page" not in names
    css = re.sub(r"/\*.*?\*/", "", re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1], flags=re.DOTALL)
    selectors = [s.strip() for rule in re.findall(r"([^{}]+)\{", css) for s in rule.split(",") if "@" not in rule]
    assert len(selectors) > 30 and all(selector.startswith(".decoding-animation") for selector in selectors)
    assert page.data["page"] is False and Page(html_fragment([SLOW], page=True)).data["page"] is True


def test_page_and_picture_have_the_same_colours() -> None:
    """Catches a colour changed in one place, and a page that is bright in the dark."""
    css = html_fragment([SLOW])
    light, dark = re.search(r"<style>(.*?)@media \(prefers-color-scheme: dark\) \{(.*?)\n\}\n", css, re.DOTALL).groups()
    for theme, part in ((LIGHT, light), (DARK, dark)):
        for kind in (Kind.MASKED, Kind.DRAFT, Kind.NEW):
            text, back = ("#" + bytes(colour).hex() for colour in theme.kinds[kind])
            assert f".da-{kind} {{ color: {text}; background: {back}; }}" in part
        assert f"--da-noise: {theme.noise[0]} {theme.noise[1]} {theme.noise[2]};" in part


# --- terminal


SIZE = {"COLUMNS": "100", "LINES": "40"}
ENTER, LEAVE, SHOW_CURSOR, HOME = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h", "\x1b[H"


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between frames."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_without_a_terminal_the_last_frame_is_printed_plainly() -> None:
    """Catches escape codes in a file, an animation that fills it, and nothing said of what is missing."""
    out = io.StringIO()
    terminal.replay([SLOW, FAST], out=out)
    text = out.getvalue()
    assert "\x1b" not in text and terminal.BLOCK not in text
    assert text.count("O, she doth teach the torches to burn") == 2 and "slow: rule" in text
    assert text.splitlines()[-1] == (
        f"The last of {len(SLOW.tokens)} states, as this is no terminal: --gif or --html shows them all."
    )


@pytest.mark.usefixtures("unhurried")
def test_a_terminal_shows_colours_and_is_left_as_it_was() -> None:
    """Catches colours that a terminal was not asked for, panels that do not stand side by side, a cursor that stays
    hidden."""
    codes = {}
    true, few, none = {"COLORTERM": "truecolor"}, {"TERM": "xterm-256color"}, {"NO_COLOR": "1"}
    for name, environment in {"true": true, "few": few, "none": none}.items():
        out = Screen()
        Style._add.cache_clear()  # rich remembers the codes of a style, as a process has one terminal
        terminal.replay([SLOW, FAST], out=out, environment=SIZE | environment, max_frames=5)
        text = out.getvalue()
        assert text.startswith(ENTER) and text.count(LEAVE) == 1 and text.count(HOME) >= 5
        assert text.rindex(SHOW_CURSOR) > text.rindex("\x1b[?25l")
        assert re.search(r"slow: rule +fast: rule", text.split(LEAVE)[1])
        codes[name] = set(re.findall(r"\x1b\[([\d;]+)m", text)) - {"0"}
    assert "38;2;122;74;0;48;2;251;223;159" in codes["true"] and not codes["none"]
    assert codes["few"] and all(re.fullmatch(r"38;5;\d+(;48;5;\d+)?", code) for code in codes["few"])
    assert all(16 <= int(number) <= 255 for code in codes["few"] for number in re.findall(r"5;(\d+)", code))


@pytest.mark.usefixtures("unhurried")
def test_what_is_hidden_shows_without_colours_too() -> None:
    """Catches states that NO_COLOR makes indistinguishable from text, and rows that differ in width."""

    def drawn(width: int) -> list[str]:
        console = Console(file=io.StringIO(), width=width)
        with console.capture() as capture:
            console.print(terminal.picture([SLOW, FAST], 0, 0, console))
        return capture.get().splitlines()

    rows, narrow = drawn(100), drawn(30)
    assert sum(row.count(terminal.BLOCK) for row in rows) == 2 * (len(TEXT) - 6) + 1 and "masked or noise" in rows[-1]
    assert max(map(len, narrow)) <= 30 and len(narrow) > len(rows)


@pytest.mark.usefixtures("unhurried")
def test_no_token_commands_the_terminal() -> None:
    """Catches a trace that can clear the screen or retitle the window."""
    record = replace(writing(["\x1b[2J", "\x9b2J", "\r", "\x07"]), method="\x1b]0;m\x07\n")
    out = Screen()
    terminal.replay([record], out=out, environment=SIZE | {"NO_COLOR": "1"})
    text = re.sub(r"\x1b\[(\?\d+[hl]|H|0m)", "", out.getvalue())  # the program's own
    assert not set("\x1b\x9b\r\x07") & set(text)


def test_an_interrupt_restores_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback on Ctrl-C, and a terminal without its cursor."""

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    out = Screen()
    out.reconfigure = lambda **_: None
    monkeypatch.setattr(time, "sleep", interrupted)
    monkeypatch.setattr("sys.stdout", out)
    write_trace(tmp_path / "m.json", SLOW)
    assert main([str(tmp_path / "m.json")]) == 130
    assert out.getvalue().endswith(SHOW_CURSOR + LEAVE) and out.getvalue().count(LEAVE) == 1


# --- command line


def test_a_run_folder_becomes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an option that is not passed on, and output to a terminal nobody asked for."""
    for record in (SLOW, FAST):
        write_trace(tmp_path / "traces" / f"{record.method}.json", record)
    gif, page = tmp_path / "new" / "a.gif", tmp_path / "new" / "a.html"
    options = ["--gif", str(gif), "--html", str(page), "--fps", "4", "--max-frames", "6"]
    assert main([str(tmp_path), *options]) == 0
    assert capsys.readouterr().out.split() == [str(gif), str(page)]
    shown, pauses = frames_of(gif)
    assert len(shown) == 6 and pauses[0] == 250
    found = Page(page.read_text(encoding="utf-8"))
    assert found.data["frames"] == 6 and found.data["interval"] == 250
    assert found.texts["da-title"] == ["fast: rule", "slow: rule"]
    assert main([str(tmp_path / "traces" / "slow.json")]) == 0
    assert "slow: rule" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.json"], "there is no trace nowhere.json: record one"),
        (["."], "there are no traces in traces: record some"),
        (["broken.json"], "broken.json is no trace"),
        (["good.json", "--fps", "0"], "0 frames per second cannot be played: choose"),
        (["good.json", "--max-frames", "1"], "1 frames are no animation: ask for at least 2"),
        (["good.json", "--gif", "good.json/a.gif"], "cannot write good.json/a.gif"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    """Catches a traceback in the face of a user, a mistake that ends in status 0, and a file lost to it."""
    monkeypatch.chdir(tmp_path)
    write_trace(Path("good.json"), writing(["a", "b"]))
    Path("broken.json").write_text("{", encoding="utf-8")
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {words}") and err.count("\n") == 1
    assert read_trace(Path("good.json")).tokens[-1] == ["a", "b"]


def test_a_trace_is_not_changed_by_being_shown() -> None:
    """Catches an animation that edits the record which the report goes on to use."""
    record: TraceRecord = writing(TEXT, given=6)
    before = (json.dumps(record.tokens), record.levels.copy(), record.given.copy())
    html_fragment([record])
    terminal.replay([record], out=io.StringIO())
    assert json.dumps(record.tokens) == before[0]
    assert (record.levels == before[1]).all() and (record.given == before[2]).all()
