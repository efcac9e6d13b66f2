"""``python -m detxai``: the command line."""

from detxai.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
