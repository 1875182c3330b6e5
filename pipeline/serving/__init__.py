"""Calibrated labels served to labeling tools, image by image: CVAT's auto-annotation and a Label Studio ML backend."""
