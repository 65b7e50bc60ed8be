"""`python -m mtc` is the command line."""

from mtc.cli import main

if __name__ == "__main__":
    main()
