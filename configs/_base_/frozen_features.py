# Tests of frozen features, listed in `_base_` beside a classifier: the loop
# computes the features of the training and test images. The configs add the
# pipeline of the training images and the classifier.
test_cfg = dict(
    type='FrozenFeatureLoop',
    train_dataloader=dict(
        batch_size=128,
        num_workers=8,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='LabelledFolder', data_root='data/imagenet/train')))
test_evaluator = []  # the classifier counts its own hits
