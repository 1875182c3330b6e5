"""AllSpark's block, its semantic memory, and a student of any kind with both."""
