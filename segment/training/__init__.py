"""Training the compact network: drawn scenes, augmentation, fine-tuning, distillation.

Only `segment.__main__` imports it.
"""
