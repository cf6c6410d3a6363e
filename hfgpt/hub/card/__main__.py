"""`python -m hfgpt.hub.card FOLDER` writes a folder's card again."""

import sys

from hfgpt.hub.card.card import main

if __name__ == "__main__":
    main(sys.argv[1:])
