"""`python -m deployment` is the command `ramsey`."""

from deployment.cli import main

if __name__ == "__main__":
    main()
