"""Stage 2: cut crops out of images and write them to crop stores."""
