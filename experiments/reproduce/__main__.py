"""The command `python -m experiments.reproduce`."""

from experiments.reproduce.run import main

if __name__ == "__main__":
    main()
