"""Rounds of self-training: the student of a run annotates the images of the next run, and is calibrated again.

A student is overconfident on the images whose masks it was trained on, so no student annotates those. The training is
repeated without the masks of each fold of the labeled images, and the student of a fold annotates the images of that
fold: labeled images, and a part of the unlabeled ones (docs/annotators.md).

base      the run of the last round                  folds     its folds, and their images and runs
training  trains the student of a fold               workflow  what the Snakefile needs
run_file  writes the run file of the next round
"""
