"""Parts of `bench.segment`: images and peers, speed and real images."""
