"""probe: finds the labels that a student learns most from, by training small students before hours of training.

views      the fixed views of an image, and the size of a whole image
features   features of a frozen encoder for these views, computed once and kept on disk
arms       the labels of the unlabeled images to compare: none, the annotator's argmax, calibrated labels
targets    masks and labels in the same views
fit        a decode head trained on cached features, and evaluated on labeled images that it was not trained on
cross_fit  the students of all arms and folds
verdict    mIoU of the arms paired by image, and the choice among them
probe      all of it: cached, resumable, its result in probe.json
"""
