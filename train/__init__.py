"""The standalone trainer: one student, two stages (labels + pseudo-labels, then self-reliance), and its evaluation."""
