"""Charts, pictures and the style sheet of the report, the gallery and the tools."""

from pathlib import Path

STYLE_FOLDER = Path(__file__).parent
"""Folder of style.css."""
