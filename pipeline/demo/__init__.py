"""The embedded demo: procedural scenes of sea life in two domains, and a network trained on the first domain only."""
