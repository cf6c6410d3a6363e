"""The last mile: cards, the gate, the upload. Works on folders, and imports nothing from training."""
