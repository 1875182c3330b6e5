"""Experiments: the paper's tables and further ones, as runs that share one data set and one set of probability maps."""
