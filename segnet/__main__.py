"""`python -m segnet`, as torchrun calls it."""

from .cli import main

if __name__ == "__main__":
    main()
