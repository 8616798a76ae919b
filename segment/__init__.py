"""Stage 1: images to cell and nucleus masks."""
