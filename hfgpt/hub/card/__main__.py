"""`python -m hfgpt.hub.card FOLDER` rewrites a folder's card."""

import sys

from hfgpt.hub.card.rendering import main

if __name__ == "__main__":
    main(sys.argv[1:])
