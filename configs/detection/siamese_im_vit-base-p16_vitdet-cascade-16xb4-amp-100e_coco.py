# COCO, ViT-B/16, 100 epochs, Cascade Mask R-CNN: three box heads, each of
# which refines the boxes of the previous one, as in Detectron2's ViTDet.
_base_ = ['../_base_/detection_vitdet.py', '../_base_/runtime.py']

# Model; the boxes are class-agnostic
stages = 3
head = dict(_base_.model.roi_head.bbox_head, reg_class_agnostic=True)
coder = head.pop('bbox_coder')
rcnn = _base_.model.train_cfg.rcnn
every = dict(  # keeps all refined boxes and objects
    type='RandomSampler', num=1024, pos_fraction=1.0, add_gt_as_proposals=True)
model = dict(
    type='CascadeRCNN',
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=stages,
        stage_loss_weights=[1 / stages] * stages,
        bbox_head=[
            dict(head, bbox_coder=dict(
                coder, target_stds=[1 / x, 1 / x, 2 / x, 2 / x]))
            for x in (10, 20, 30)
        ]),
    train_cfg=dict(
        rcnn=[
            dict(
                rcnn,
                assigner=dict(
                    type='MaxIoUAssigner', pos_iou_thr=iou, neg_iou_thr=iou,
                    min_pos_iou=iou, match_low_quality=False),
                sampler=rcnn.sampler if iou == 0.5 else every)
            for iou in (0.5, 0.6, 0.7)
        ]))
