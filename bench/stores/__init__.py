"""Parts of `bench.crops`: stores to read from, and loading their crops."""
