"""The training loop: stages, their state, one optimisation step, checkpoints and the learning curve."""
