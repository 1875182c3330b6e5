"""probe: which labels a student learns most from, asked of small students before hours of training.

views     the fixed views of an image, and how a whole image is looked at
features  what a frozen encoder sees in them, computed once and kept on disk
arms      what can teach the unlabeled images: nothing, the annotator as it is, calibrated labels
targets   masks and labels in the same views
fit       a decode head trained on cached features, and judged on labeled images that it has not seen
verdict   mIoU of the arms paired by image, and the choice among them
probe     all of it: cached, resumable, its result in probe.json
"""
