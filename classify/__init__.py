"""Stage 3: crops to class probabilities."""
