"""Training. Everything here needs ``pip install "geovl[torch]"``."""
