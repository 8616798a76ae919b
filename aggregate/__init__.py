"""Stage 4: crop probabilities to image labels, scores and a submission."""
