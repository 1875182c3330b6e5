"""AllSpark's block and semantic memory, and a network that adds both to any student."""
