"""From images and a few masks to pseudo-labels; `train` uses its settings, data sets and receipts."""
