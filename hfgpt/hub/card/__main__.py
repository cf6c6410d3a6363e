"""`python -m hfgpt.hub.card FOLDER` writes a folder's card again."""

import sys

from hfgpt.hub.card.card import main

main(sys.argv[1:])
