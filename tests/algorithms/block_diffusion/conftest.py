"""The oracle of these tests."""

import pytest

from tests.algorithms.masked_diffusion.conftest import MarkovSource


@pytest.fixture(scope="session")
def markov() -> MarkovSource:
    return MarkovSource()
