"""Parts of `bench.backbone`: drawn and real crops, texture features, linear probes."""
