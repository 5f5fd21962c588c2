# The main row in float16 with a gradient scaler, as in the released code.
_base_ = ['../_base_/siamese_im.py', '../_base_/runtime.py']

optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')
