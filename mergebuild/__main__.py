"""`python -m mergebuild` is the same program as `mergebuild`."""

from mergebuild.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
