"""What tests of decoders share: a prompt continued by a method, and gaps filled by a network alone, as one call."""

from typing import Any

from algorithms.common.base_algorithm import BaseAlgorithm
from algorithms.common.decoder import Decoder, Generation, Request
from algorithms.masked_diffusion.decoding import MaskedDecoder, Predictor
from algorithms.masked_diffusion.decoding.reader import SlidingWindow


def write(model: BaseAlgorithm, prompts: Any, *, decoder: Decoder | None = None, **asked: Any) -> Generation:
    """`length` tokens after each of the prompts, by `decoder` or the model's own."""
    return model.generate(Request.continuing(prompts, **asked), decoder)


def fill(decoder: MaskedDecoder, predict: Predictor, *texts: Any, window: int, **asked: Any) -> Generation:
    """The decoder's loop over ids (B, L) and what is given of them, `predict` being shown windows of so many tokens."""
    return decoder.write(SlidingWindow(predict, window, *decoder.spans(window)), *texts, **asked)
