"""What tests of decoders share: a prompt continued by a method, as one call."""

from typing import Any

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.decoder import Decoder, Generation, Request


def write(model: BaseAlgorithm, prompts: Any, *, decoder: Decoder | None = None, **asked: Any) -> Generation:
    """`length` tokens after each of the prompts, by `decoder` or the model's own."""
    return model.generate(Request.continuing(prompts, **asked), decoder)
