"""Parts of `bench.classify`: the atlas, the runs, their scores, speed and real images."""
