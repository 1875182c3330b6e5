"""From images and a few masks to pseudo-labels; also the vocabulary that the trainer shares."""
