"""Trains nano-text: a small decoder on nano's encoder that reads a phrase and writes a mask as text."""
