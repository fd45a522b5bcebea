"""Small hermetic corpora: texts that are made here, and a network that always refuses."""

import urllib.error
import urllib.request

import pytest

from datasets.config import DatasetConfig


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any test that would reach for the network gets the error of a machine without one."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def text_config(tmp_path):
    """Make a `text_file` configuration from a text; keyword arguments override its fields."""

    def make(text: str, **fields) -> DatasetConfig:
        path = tmp_path / "text.txt"
        path.write_text(text, encoding="utf-8")
        given = {"name": "text_file", "path": str(path), "cache_dir": str(tmp_path / "cache")}
        return DatasetConfig(**(given | fields))

    return make
