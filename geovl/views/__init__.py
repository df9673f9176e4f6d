"""What was found, for the eyes: pictures of a run, and pages that show it."""
