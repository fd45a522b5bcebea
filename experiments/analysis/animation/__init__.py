"""Animations of traces, from files alone: GIF, web page and terminal show the same frames in the same colours."""

from experiments.analysis.animation.gif import write_gif
from experiments.analysis.animation.html import html_fragment, write_html

__all__ = ["html_fragment", "write_gif", "write_html"]
