"""Experiments: the paper's tables, and further ones, as runs that share one preparation and one set of maps."""
