"""The model card: facts read from a folder, escaped, and put into the templates of model_cards/."""
