"""SEEM, reimplemented for text prompts: `Seem.from_pretrained(folder).semantic_map(image, names)`."""

from pipeline.seem.configuration import SeemConfig
from pipeline.seem.errors import SeemError
from pipeline.seem.model import SeemModel
from pipeline.seem.seem import Seem

__all__ = ["Seem", "SeemConfig", "SeemError", "SeemModel"]
