# Logistic regression on frozen features with all labels. Our protocol, on the
# mean of the patches, which the pretraining loss trains (docs/logistic.md).
_base_ = './siamese_im_vit-micro-p8_knn_demo.py'

test_cfg = dict(
    classifier=dict(_delete_=True, type='LogisticClassifier', l2=None))
