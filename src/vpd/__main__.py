"""`python -m vpd`, for launchers that start a module."""

from vpd.cli import main

if __name__ == "__main__":
    main()
