# COCO, ViT-B/16, 100 epochs: the paper's main result.
_base_ = ['../_base_/detection_vitdet.py', '../_base_/runtime.py']
