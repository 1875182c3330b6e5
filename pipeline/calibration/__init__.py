"""Calibration of a run's stored maps: thresholds, their quality on held-out images, and the choice of labels.

stored_maps    reads the scores of labeled images in blocks  cross_fitting  thresholds, judged on held-out images
folds          the folds of a variant                        judging        judges images by all variants' thresholds
sweep          the same for many alphas                      label_choice   the variant, alpha and rule of a run
alpha_choice   the output of `conformalsam alpha`            verdict        calibrated labels against the raw argmax
guarantee      the guarantee of the thresholds, in words     rows           held-out estimates as rows of a receipt
precision      the guaranteed precision of a run              runner_up      how far rule auto's choice is from the next
shift          whether unlabeled images differ from labeled ones
"""
