"""Calibration of a run's stored maps: thresholds, what they are worth on held-out images, and which labels to make.

stored_maps    the labeled images' scores, in blocks       cross_fitting  thresholds judged on images held out
sweep          the same for many alphas                     label_choice   the variant, alpha and rule of a run
alpha_choice   what `conformalsam alpha` prints             verdict        one sentence: does calibration pay
promise        what the thresholds guarantee, in words
"""
