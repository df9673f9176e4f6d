"""``python -m geovl``."""

from geovl.cli.app import main

if __name__ == "__main__":
    main()
