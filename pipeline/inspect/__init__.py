"""A look into one of the three stores: what made it, whether it is whole, what is in it; and pictures of its images."""

from pipeline.inspect.pictures import write_picture
from pipeline.inspect.summary import format_summary, inspect_store

__all__ = ["format_summary", "inspect_store", "write_picture"]
