"""Annotators: they compute K maps from an image and K class prompts. One contract, one module per adapter.

contract    the protocol of an annotator, and the check of every map that it returns
build       builds the adapter that the settings choose, and prepares it for the classes of the run
seem        SEEM, with our own code of the network   onnx   any segmentation network as an ONNX file
hub         published networks in transformers format
maps        results of other code, one file per image map_files   reads and checks such a file
batches     a torch network on its device, on batches that fit into memory
embeddings  text embeddings on disk
download    downloads published weights by name      convert_seem   converts an official checkpoint to our format
"""
