# The paper's 400-epoch row. No source gives its warm-up: 40 epochs is ours.
_base_ = ['../_base_/siamese_im.py', '../_base_/runtime.py']

train_cfg = dict(max_epochs=400)
