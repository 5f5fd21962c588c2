# kNN on frozen features: the mean of the patches, k = 20 the one to quote.
_base_ = '../_base_/imagenet_classifier.py'

model = dict(backbone=dict(out_type='raw'), head=None)
test_evaluator = []  # the classifier counts
test_cfg = dict(
    type='FrozenFeatureLoop',
    train_dataloader=dict(
        batch_size=128,
        num_workers=8,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='LabelledFolder', data_root='data/imagenet/train',
                     pipeline=_base_.test_pipeline)),
    classifier=dict(type='KNNClassifier', ks=(10, 20, 100, 200),
                    temperature=0.07),
    pool='mean')
