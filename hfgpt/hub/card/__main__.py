"""`python -m hfgpt.hub.card FOLDER` writes a folder's card again."""

import sys

from hfgpt.hub.card.rendering import main

if __name__ == "__main__":
    main(sys.argv[1:])
