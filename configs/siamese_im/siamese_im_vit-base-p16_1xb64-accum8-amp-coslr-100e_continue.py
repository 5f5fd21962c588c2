# Continue from a checkpoint, ours or a released one, on other images: the
# online branch, decoder and target start from it, the schedule from zero.
#   --pretrained FILE --cfg-options train_dataloader.dataset.data_root=DIR
_base_ = ['../_base_/siamese_im.py', '../_base_/runtime.py']

model = dict(pretrained='work_dirs/pretrained.pth')
optim_wrapper = dict(accumulative_counts=8)
train_dataloader = dict(
    batch_size=64, dataset=dict(data_root='data/images'))
param_scheduler = dict(warmup=5)
train_cfg = dict(max_epochs=100, fit_accumulation=True)
