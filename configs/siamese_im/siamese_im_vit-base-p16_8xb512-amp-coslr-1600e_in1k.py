# The paper's main row: ViT-B/16, 1600 epochs, batch 4096, bf16.
_base_ = ['../_base_/siamese_im.py', '../_base_/runtime.py']
