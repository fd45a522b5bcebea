"""Decoders of masked diffusion: one loop, and a commit rule for each way to choose what is decided next."""

from algorithms.masked_diffusion.decoding.loop import MaskedDecoder
from algorithms.masked_diffusion.decoding.reader import Chunk, Reader
from algorithms.masked_diffusion.decoding.rules import Ancestral, EntropyBound, Remasking, Threshold, TopConfidence
from algorithms.masked_diffusion.decoding.state import DONE, DRAFT, MASKED, ChunkState, Prediction, Predictor
from algorithms.masked_diffusion.decoding.two_stage import TwoStage

# A configuration picks the one whose name it gives.
AnyDecoder = Ancestral | TopConfidence | Threshold | EntropyBound | Remasking | TwoStage

__all__ = [
    "DONE",
    "DRAFT",
    "MASKED",
    "Ancestral",
    "AnyDecoder",
    "Chunk",
    "ChunkState",
    "EntropyBound",
    "MaskedDecoder",
    "Prediction",
    "Predictor",
    "Reader",
    "Remasking",
    "Threshold",
    "TopConfidence",
    "TwoStage",
]
