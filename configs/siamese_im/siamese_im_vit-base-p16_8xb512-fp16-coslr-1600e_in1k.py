# float16 with a gradient scaler, as the released code trained.
_base_ = '../_base_/siamese_im.py'

optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')
