"""Entry of `python -m isentrope`."""

from isentrope.cli import main

if __name__ == "__main__":
    main()
