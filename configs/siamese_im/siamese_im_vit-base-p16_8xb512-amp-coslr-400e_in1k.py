# The paper's 400-epoch row. Its warm-up is in no source: 40 epochs is ours.
_base_ = '../_base_/siamese_im.py'

train_cfg = dict(max_epochs=400)
