"""The training loop: a stage, its state, one step of the optimiser, checkpoints and the learning curve."""
