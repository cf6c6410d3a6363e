"""`python -m hfgpt COMMAND` is `hfgpt COMMAND`."""

from hfgpt.cli import main

if __name__ == "__main__":
    main()
