"""Stage 2: images and masks to crop stores."""
