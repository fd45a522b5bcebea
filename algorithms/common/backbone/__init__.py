"""The one backbone under all four methods."""

from algorithms.common.backbone.attention import KVCache
from algorithms.common.backbone.config import BackboneConfig
from algorithms.common.backbone.language_model import LanguageModel
from algorithms.common.backbone.transformer import Backbone

__all__ = ["Backbone", "BackboneConfig", "KVCache", "LanguageModel"]
