"""Autoregressive decoding: one token at a time, with an exact key-value cache."""

from typing import Any, Literal

from pydantic.dataclasses import dataclass

from algorithms.common.autoregression import write_tokens
from algorithms.common.decoder import DrawingDecoder, Generation, Request
from algorithms.common.fields import STRICT


@dataclass(frozen=True, config=STRICT)
class Autoregressive(DrawingDecoder):
    """`algorithm/decoder=autoregressive`."""

    name: Literal["autoregressive"] = "autoregressive"
    use_cache: bool = True

    def decode(self, model: Any, request: Request) -> Generation:
        """One forward of the network a step, until every text has come to its end."""
        return write_tokens(model.model, request, self.draw, use_cache=self.use_cache)
