"""``python -m geovl``."""

from geovl.cli.app import app

if __name__ == "__main__":
    app(prog_name="geovl")
