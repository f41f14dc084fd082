"""`python -m leptonai` is the command line."""

from leptonai.cli.__main__ import main

if __name__ == "__main__":
    main()
