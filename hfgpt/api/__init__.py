"""The recipes as functions: values in, results out. `from hfgpt import pretrain` finds them; docs/python.md shows each in use."""
