"""Backends: code that turns chips and a vocabulary into scores."""
