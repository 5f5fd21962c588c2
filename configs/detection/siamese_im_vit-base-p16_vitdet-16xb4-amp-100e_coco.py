# COCO, ViT-B/16, 100 epochs: the main result of the paper.
_base_ = '../_base_/detection_vitdet.py'
