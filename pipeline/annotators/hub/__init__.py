"""The `transformers` annotator: a published segmentation network, in a folder or on the Hugging Face hub.

annotator      the adapter: loads the network that config.json names, and calls it on batches that fit into memory
folder         the folder of the network, and the kind of its architecture
loading        configuration, tokenizer and weights of the network
preprocessing  images -> the network's input, by preprocessor_config.json and without torchvision
labels         closed vocabulary: the labels of the network that mean each class
networks       the outputs of networks with labels -> probabilities: semantic and universal networks
prompted       networks that are prompted with words -> probabilities: CLIPSeg and SAM 3
detectors      networks that are prompted with words -> boxes: Grounding DINO and OWLv2
grounded       the masks of the boxes of a detector by SAM 2 -> probabilities
"""
