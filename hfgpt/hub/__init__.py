"""The last mile: cards, the gate, the push. Gets folders handed to it, and imports nothing of training."""
