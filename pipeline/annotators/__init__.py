"""What turns an image and K class prompts into K maps: one contract, one module per adapter.

contract  what an annotator is, and the check of every map that it returns
build     the adapter that a run chooses, prepared for the run's classes
seem      SEEM, our own code of the network        onnx   any segmentation network as an ONNX file
download  published weights, by name               convert_seem   an official checkpoint to ours
"""
