"""nano-text: the bundled model that reads a phrase and writes a mask as text."""
