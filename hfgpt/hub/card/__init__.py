"""The model card: facts read from a folder, escaped, and inserted into the templates of model_cards/."""
