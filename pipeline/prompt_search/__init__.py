"""`conformalsam prompts`: which wording of a class's prompts gives the best IoU on the labeled images.

candidates  the wordings to try, from the run file and the command line
search      annotates the labeled images with every wording, and counts pixels
comparison  IoU of each wording with intervals, the best one, and the text that the command prints
"""
