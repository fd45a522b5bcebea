"""The one backbone under all methods."""

from algorithms.common.backbone.cache import KVCache
from algorithms.common.backbone.config import BackboneConfig
from algorithms.common.backbone.language_model import LanguageModel
from algorithms.common.backbone.transformer import Backbone

__all__ = ["Backbone", "BackboneConfig", "KVCache", "LanguageModel"]
