"""Charts, pictures and the style sheet that the report, the gallery and the tools share."""

from pathlib import Path

STYLE_FOLDER = Path(__file__).parent
"""Folder of style.css."""
