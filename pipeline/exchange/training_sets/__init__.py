"""Data sets that other programs train on: images, human masks and pseudo-labels in one coding, and lists of both.

contents  the images of a data set, their labels, and how images are linked or copied
"""
