"""`python -m segnet`, as torchrun calls it."""

from segnet.cli import main

if __name__ == "__main__":
    main()
