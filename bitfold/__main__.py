"""``python -m bitfold``: the command line."""

from bitfold.frontend.cli.main import main

if __name__ == "__main__":
    main()
