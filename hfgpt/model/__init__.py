"""The model: the files in this folder are published with the weights, so they import nothing from hfgpt except each other."""
