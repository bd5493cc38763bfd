"""`python -m evoprune`."""

from evoprune.cli import main

if __name__ == "__main__":
    main()
