"""ClearCLIP and the parts of SegEarth-OV that need no weights of its own."""
