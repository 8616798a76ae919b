"""Train the compact network: synthetic scenes, augmentation, pretraining, fine-tuning and distillation.

Only `segment.__main__` imports it (and the benchmarks do).
"""
