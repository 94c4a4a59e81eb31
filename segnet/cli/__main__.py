"""`python -m segnet.cli`, as torchrun calls it."""

from . import main

if __name__ == "__main__":
    main()
