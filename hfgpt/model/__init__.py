"""The model: the files of this folder travel to the Hub beside the weights, so they import nothing of ours but each other."""
