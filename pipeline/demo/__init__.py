"""The embedded demo: procedural scenes of sea life in two domains, and a network that knows only the first."""
