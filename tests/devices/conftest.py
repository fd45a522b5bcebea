"""The simulated device of a check. It is imported when one asks: torch would know that backend in every test."""

from collections.abc import Iterator
from typing import Any

import pytest

KINDS = ("cuda", "mps")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def costs(kind: str) -> Iterator[Any]:
    """The device, simulated for the length of a test; yields what it costs."""
    from tests.devices.simulated import simulated

    with simulated(kind) as found:
        yield found
